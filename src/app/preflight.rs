//! What can be told of a start before anything is opened: for `larder check`, for refusing a start that nothing but a
//! person can mend, and for the reason on `/health`.
//!
//! Invariant: it makes and changes nothing, and a larder that is running with the same folder does not notice it.

use std::path::PathBuf;

use super::sockets;
use crate::api::access::file as tokens;
use crate::board::folder::{self, Obstacle, Usable, user};
use crate::board::overlap::lies_in;
use crate::config::load::file_to_read;
use crate::config::units::show_size;
use crate::config::{Config, StoreKind, descriptors};
use crate::http::static_files::{Closed, StaticFiles, StaticOptions};
use crate::store::fjall::layout;
use crate::store::space::{Allowed, SpaceWatch};

/// A smaller reserve is remarked on.
const RESERVE_BYTES_MIN: u64 = 24 << 20;
/// Others than the owner and the group.
const OTHERS: u32 = 0o007;

/// The data folder as it can be used, or what stands in the way; `None` if nothing is kept on the card.
pub fn data_folder(config: &Config) -> Option<Result<Usable, Obstacle>> {
    (config.store == StoreKind::Fjall).then(|| look(config))
}

fn look(config: &Config) -> Result<Usable, Obstacle> {
    let usable = folder::look(&config.data_dir)?;
    if usable.mode.is_some() {
        layout::check(&config.data_dir)?;
    }
    Ok(usable)
}

/// Why a start makes no sense until somebody has changed the configuration or the folder. A card that is mounted
/// read-only, is full or does not answer is no such reason: that may mend by itself.
pub fn refusal(config: &Config) -> Option<String> {
    let Err(obstacle) = data_folder(config)? else { return None };
    match obstacle {
        Obstacle::NotAFolder(_) | Obstacle::NotAFile(_) | Obstacle::Dangling(_) | Obstacle::Denied(_) => {
            Some(format!("store.dir: {obstacle}"))
        }
        Obstacle::ReadOnly(_) | Obstacle::Unknown(..) => None,
    }
}

/// That no write would ever find room, because more is to be kept free than the card has.
pub fn no_room_ever(config: &Config) -> Option<String> {
    let (usable, reserve_bytes) = (data_folder(config)?.ok()?, config.reserve_bytes?);
    let total_bytes = SpaceWatch::new(Some(usable.nearest), Some(reserve_bytes)).figures().total_bytes;
    (total_bytes > 0 && reserve_bytes >= total_bytes).then(|| {
        format!(
            "store.reserve is {}, and the card of {} has {} in all: no write would ever be taken",
            show_size(reserve_bytes),
            config.data_dir.display(),
            mib(total_bytes)
        )
    })
}

/// Why what is stored would lie among the files that are served, if so: one of the two folders is in the other.
pub fn overlap(config: &Config) -> Option<String> {
    let www = config.www_dir.as_ref().filter(|_| config.store == StoreKind::Fjall)?;
    let (data, served) = (config.data_dir.display(), www.display());
    let how = if layout::folders(&config.data_dir).iter().any(|folder| lies_in(folder, www)) {
        "holds"
    } else if lies_in(www, &config.data_dir) {
        "lies in"
    } else {
        return None;
    };
    Some(format!("www.dir {served} {how} store.dir {data}: what is stored would be served as files; keep them apart"))
}

/// What stands in the way, in words that may be shown to everyone: without paths.
pub fn public_reason(config: &Config) -> Option<String> {
    let obstacle = data_folder(config)?.err()?;
    Some(match obstacle {
        Obstacle::NotAFolder(_) | Obstacle::NotAFile(_) | Obstacle::Dangling(_) => {
            "store.dir is no folder, or something in it is not what it must be; the log says more".to_owned()
        }
        Obstacle::Denied(_) => "permission denied: larder must be able to read and write store.dir".to_owned(),
        Obstacle::ReadOnly(_) => "its file system is read-only for larder".to_owned(),
        Obstacle::Unknown(..) => return None,
    })
}

/// Whether everyone on this machine may look into the data folder, in words.
pub fn open_to_others(config: &Config) -> Option<String> {
    let mode = data_folder(config)?.ok()?.mode.filter(|mode| mode & OTHERS != 0)?;
    let dir = config.data_dir.display();
    Some(format!("other users of this machine may look into {dir} (mode {mode:04o}): chmod 700 {dir}"))
}

/// What `larder serve` would meet, a line each, though it would start.
pub fn remarks(config: &Config) -> Vec<String> {
    let mut remarks: Vec<String> = descriptors::cut(config).map(|text| format!("note: {text}")).into_iter().collect();
    remarks.extend(sockets::remarks(config));
    remarks.extend(of_data_folder(config));
    remarks
}

fn of_data_folder(config: &Config) -> Vec<String> {
    let dir = config.data_dir.display();
    let usable = match data_folder(config) {
        None => return Vec::new(),
        Some(Err(obstacle)) => {
            return vec![format!(
                "warning: {obstacle}: larder would start, answer 503 with the reason, and try again every 30 s"
            )];
        }
        Some(Ok(usable)) => usable,
    };
    let mut remarks = Vec::new();
    if usable.mode.is_none() {
        remarks.push(format!("note: {dir} is not there yet and will be made"));
    } else if layout::is_in_use(&config.data_dir) {
        remarks.push(format!("note: a larder is running with {dir}; a second one would be refused"));
    }
    remarks.extend(open_to_others(config).map(|text| format!("warning: {text}")));
    remarks.extend(little_reserve(config).map(|text| format!("warning: {text}")));
    remarks.extend(little_space(usable.nearest, config.reserve_bytes).map(|text| format!("warning: {text}")));
    remarks
}

fn little_space(dir: PathBuf, reserve_bytes: Option<u64>) -> Option<String> {
    let figures = SpaceWatch::new(Some(dir), reserve_bytes).figures();
    let (free, reserve) = (mib(figures.free_bytes), show_size(figures.reserve_bytes));
    let is_little = figures.allowed != Allowed::Writes;
    is_little.then(|| format!("{free} are free on the card and store.reserve is {reserve}: writes would get 507"))
}

/// A reserve that may not be enough for what goes on while writes are refused: two memtables are flushed, and their
/// tables merged.
fn little_reserve(config: &Config) -> Option<String> {
    let least = RESERVE_BYTES_MIN.max(4 * config.memtable_bytes);
    let reserve = config.reserve_bytes.filter(|reserve| *reserve < least)?;
    Some(format!(
        "store.reserve is {}: on a card that is almost full, deletions may need {} to give their space back",
        show_size(reserve),
        show_size(least)
    ))
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// The folder of `www.dir`, opened, if there is to be one.
pub fn files(config: &Config) -> Result<Option<StaticFiles>, String> {
    let Some(dir) = &config.www_dir else { return Ok(None) };
    let options = StaticOptions {
        public: config.www_public,
        single_page: config.www_spa,
        immutable: config.www_immutable.clone(),
        compress_from_bytes: Some(config.compress_threshold_bytes as u64),
        closed: Closed {
            folders: layout::folders(&config.data_dir).into(),
            files: tokens::names(&config.tokens_path()).into_iter().chain(file_to_read(&config.inputs)).collect(),
        },
        ..StaticOptions::default()
    };
    let opened = StaticFiles::open(dir, options);
    opened.map(Some).map_err(|error| format!("www.dir {} cannot be opened by {}: {error}", dir.display(), user()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fjall::{FjallOptions, FjallStore};
    use std::path::Path;

    fn config(dir: &Path, reserve_bytes: u64) -> Config {
        Config { data_dir: dir.to_owned(), reserve_bytes: Some(reserve_bytes), ..Config::defaults(512 << 20, 1) }
    }

    #[test]
    fn a_running_larder_is_seen_and_not_disturbed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("data");
        let config = config(&dir, 24 << 20);
        assert_eq!(remarks(&config), [format!("note: {} is not there yet and will be made", dir.display())]);
        let store = FjallStore::open(&dir, FjallOptions::default()).unwrap();
        let seen = remarks(&config);
        assert!(seen.len() == 1 && seen[0].contains("a larder is running with "), "{seen:?}");
        drop(store);
        assert_eq!(remarks(&config), Vec::<String>::new());
        assert!(FjallStore::open(&dir, FjallOptions::default()).is_ok());
    }

    #[test]
    fn a_card_below_the_reserve_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let told = remarks(&config(&folder.path().join("data"), 1 << 60));
        assert!(told[1].ends_with("store.reserve is 1073741824GiB: writes would get 507"), "{told:?}");
    }

    #[test]
    fn a_store_in_memory_needs_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let on_card = config(&file, 0);
        assert_eq!(refusal(&on_card), Some(format!("store.dir: {} is not a folder", file.display())));
        assert!(public_reason(&on_card).is_some_and(|reason| reason.starts_with("store.dir is no folder")));
        let in_memory = Config { store: StoreKind::Memory, ..on_card };
        assert_eq!((refusal(&in_memory), remarks(&in_memory)), (None, Vec::new()));
    }
}
