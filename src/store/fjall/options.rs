//! Every setting of fjall, explicit and with its reason. None is left to fjall's defaults, which are for servers.
//!
//! NOTE: fjall stores a keyspace's settings when it creates the keyspace and ignores what later starts say. So what
//! may differ from start to start is never among them: the memtable limit is kept by larder's own rotation, the block
//! cache belongs to the database. A release that wants other keyspace settings needs new keyspaces (export, import).

use std::path::Path;
use std::sync::Arc;

use fjall::compaction::Leveled;
use fjall::config::{
    BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, HashRatioPolicy,
    PartitioningPolicy, PinningPolicy, RestartIntervalPolicy,
};
use fjall::{CompressionType, Database, DatabaseBuilder, KeyspaceCreateOptions};

use crate::limits::{KIB, MIB};
use crate::store::database::Droppable;
use crate::store::space::SpaceWatch;

/// One flushes while the other compacts; a single one deadlocks under small commits.
pub(super) const WORKER_THREADS: usize = 2;
/// The least fjall takes. It counts sealed journals, so with the active one plan twice as much on the card.
const JOURNALS_BYTES_MAX: u64 = 64 * MIB as u64;
/// The least and the most of tables that are kept open for reading.
pub const CACHED_FILES: (usize, usize) = (10, 64);
/// A merge reads a table of each run at once, and writes stop at 30 runs with 4 more on their way. Two
/// merges, a flush, the versions that they write, and the journals.
const BUSY_FILES_MAX: usize = 2 * (34 + 4) + 8 + 12;
/// Small tables keep the scratch space and the duration of one compaction step small.
pub(super) const TABLE_BYTES: u64 = 8 * MIB as u64;
/// Where fjall would rotate by itself. Larder rotates long before; this is out of reach on purpose.
const FJALL_MEMTABLE_BYTES: u64 = 64 * MIB as u64;
/// Blocks of tables, before compression. Values of this size and above mostly have a block of their own.
pub(super) const BLOCK_BYTES: u32 = 4 * KIB as u32;
const BLOOM_BITS_PER_KEY: f32 = 10.0;
pub(super) const FIRST_LEVEL_TABLES: u8 = 4;
pub(super) const LEVEL_RATIO: f32 = 10.0;

/// The most descriptors that a store with so many tables kept open takes at once.
pub const fn descriptors_max(cached_files: usize) -> usize {
    cached_files + BUSY_FILES_MAX
}

/// What may differ from start to start.
#[derive(Clone)]
pub struct FjallOptions {
    /// [`crate::store::Store::maintain`] rotates when an active memtable holds more bytes than this. Two a
    /// keyspace exist at once (one active, one being flushed), and a compaction keeps those that it found in memory
    /// until it ends.
    pub memtable_bytes: u64,
    /// Bytes of decompressed blocks kept in memory.
    pub block_cache_bytes: u64,
    /// Tables kept open for reading, at most.
    pub cached_files: usize,
    /// Watches the card, and is told what the store needs of it.
    pub space: Arc<SpaceWatch>,
    /// Records that had expired at this moment may be dropped while tables are compacted. Whoever holds the clock moves it.
    pub droppable: Droppable,
}

impl Default for FjallOptions {
    fn default() -> FjallOptions {
        FjallOptions {
            memtable_bytes: 4 * MIB as u64,
            block_cache_bytes: 4 * MIB as u64,
            cached_files: CACHED_FILES.1,
            space: Arc::default(),
            droppable: Droppable::default(),
        }
    }
}

impl FjallOptions {
    pub(super) fn database(&self, dir: &Path) -> DatabaseBuilder<Database> {
        Database::builder(dir)
            .worker_threads(WORKER_THREADS)
            .cache_size(self.block_cache_bytes)
            .max_cached_files(Some(self.cached_files))
            .max_journaling_size(JOURNALS_BYTES_MAX)
            // Recovery compresses again to check a checksum: another release of the compressor would make good
            // journals unreadable. Uncompressed bytes are verified as they stand.
            .journal_compression(CompressionType::None)
            // Each commit says itself whether it syncs.
            .manual_journal_persist(true)
            .temporary(false)
    }

    pub(super) fn keyspace(&self) -> KeyspaceCreateOptions {
        let compaction = Leveled::default()
            .with_table_target_size(TABLE_BYTES)
            .with_l0_threshold(FIRST_LEVEL_TABLES)
            .with_level_ratio_policy(vec![LEVEL_RATIO]);
        let bloom = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(BLOOM_BITS_PER_KEY));
        KeyspaceCreateOptions::default()
            .manual_journal_persist(true)
            .max_memtable_size(FJALL_MEMTABLE_BYTES)
            .compaction_strategy(Arc::new(compaction))
            // Separated values cost memory and latency, and had the worst bugs.
            .with_kv_separation(None)
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
            .index_block_compression_policy(CompressionPolicy::disabled())
            .data_block_restart_interval_policy(RestartIntervalPolicy::all(16))
            .data_block_hash_ratio_policy(HashRatioPolicy::all(0.0))
            // Filters also on the last level: asking for what is not there must not read the card.
            .expect_point_read_hits(false)
            .filter_policy(FilterPolicy::all(bloom))
            // Only the small first levels are pinned; large tables have partitioned indexes that stay on the card.
            .index_block_pinning_policy(PinningPolicy::new([true, true, false]))
            .filter_block_pinning_policy(PinningPolicy::new([true, false]))
            .index_block_partitioning_policy(PartitioningPolicy::new([false, false, false, true]))
            .filter_block_partitioning_policy(PartitioningPolicy::new([false, false, false, true]))
    }
}
