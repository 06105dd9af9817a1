//! Configuration as a user meets it: what wins over what, and what stops a start.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use larder::config::raw::Given;
use larder::config::{Board, Config, EngineKind, Inputs, ListenAddress, Source, load};
use larder::store::Durability;

struct Setup {
    folder: tempfile::TempDir,
    inputs: Inputs,
}

impl Setup {
    fn file(text: &str) -> Setup {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("larder.toml");
        std::fs::write(&path, text).expect("a file for the test");
        let board = Board { cores: 4, ..Board::default() };
        Setup { folder, inputs: Inputs { board, file: Some(path), ..Inputs::default() } }
    }

    fn env(mut self, name: &str, value: &str) -> Setup {
        self.inputs.environment.push((OsString::from(name), OsString::from(value)));
        self
    }

    fn flag(mut self, setting: &'static str, value: &str) -> Setup {
        self.inputs.flags.push((setting, "--flag".to_owned(), Given::Words(value.to_owned())));
        self
    }

    fn config(&self) -> Config {
        load(&self.inputs).map(|loaded| loaded.config).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    /// The errors, with the folder's name taken out.
    fn errors(&self) -> Vec<String> {
        let errors = load(&self.inputs).map(|loaded| panic!("{:?}", loaded.config)).unwrap_or_else(|errors| errors);
        let folder = format!("{}/", self.folder.path().display());
        errors.iter().map(|error| error.to_string().replace(&folder, "")).collect()
    }
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults() {
    let file = "[server]\nworkers = 5\nio_threads = 7\n[cache]\nsize = \"1MiB\"\n[store]\ndurability = \"relaxed\"\n";
    let given =
        Setup::file(file).env("LARDER_SERVER_WORKERS", "6").env("LARDER_CACHE_SIZE", "2MiB").flag("cache.size", "3MiB");
    let loaded = load(&given.inputs).expect("a good configuration");
    let config = &loaded.config;
    assert_eq!((config.workers, config.io_threads, config.cache_bytes), (6, 7, 3 << 20));
    assert_eq!(config.durability, Durability::Relaxed);
    assert_eq!(config.memtable_bytes, 4 << 20);
    assert_eq!(*loaded.sources.of("server", "workers"), Source::Environment("LARDER_SERVER_WORKERS".into()));
    assert!(matches!(loaded.sources.of("server", "io_threads"), Source::File(_, 3)));
    assert_eq!(*loaded.sources.of("store", "memtable"), Source::Default);
}

#[test]
fn defaults_follow_the_memory_and_the_cores() {
    let small = Config::defaults(512 << 20, 4);
    assert_eq!((small.cache_bytes, small.block_cache_bytes, small.workers), (16 << 20, 4 << 20, 8));
    let large = Config::defaults(64 << 30, 64);
    assert_eq!((large.cache_bytes, large.block_cache_bytes, large.workers), (256 << 20, 8 << 20, 128));
}

#[test]
fn budgets_and_connections_follow_the_addresses_of_the_process() {
    let with = |file: &str, gib: u64| {
        let mut given = Setup::file(file).env("RUST_MIN_STACK", "262144");
        given.inputs.board.ram_bytes = 16 << 30;
        given.inputs.board.addresses = Some(gib << 30);
        given
    };
    let errors = with("[cache]\nsize = \"8GiB\"", 3).errors();
    assert!(
        errors.len() == 1 && errors[0].starts_with("larder.toml:2: ") && errors[0].contains("addresses"),
        "{errors:?}"
    );
    assert!(with("[limits]\nbodies_bytes_max = \"2GiB\"", 3).errors()[0].contains("half of the addresses"));
    assert!(
        with("[limits]\nanswers_bytes_max = \"1GiB\"\n[cache]\nsize = \"600MiB\"", 3).errors()[0].contains("addresses")
    );
    let many = with("[limits]\nconnections_max = 100000", 3).config();
    assert!((200..10_000).contains(&many.limits.connections_max), "{}", many.limits.connections_max);
    assert_eq!(many.connections_wanted, 100_000);
    let epoll = with("[limits]\nconnections_max = 100000\n[server]\nengine = \"epoll\"", 3).config();
    assert_eq!(epoll.limits.connections_max, 100_000);
    // Defaults never contradict, however few there are.
    for gib in [1, 2, 3, 4] {
        assert_eq!(with("", gib).config().limits.connections_max, 500, "{gib}");
    }
    assert_eq!(with("[cache]\nsize = \"8GiB\"", 64).config().cache_bytes, 8 << 30);
}

#[test]
fn the_connection_limit_follows_the_engine_unless_it_is_set() {
    let epoll = Setup::file("[server]\nengine = \"epoll\"\n");
    assert_eq!(epoll.config().limits.connections_max, 12_000);
    let set = Setup::file("[server]\nengine = \"epoll\"\n[limits]\nconnections_max = 20\n");
    assert_eq!(set.config().limits.connections_max, 20);
    assert_eq!(set.config().limits.connections_per_address_max, 20);
    assert_eq!(Setup::file("").config().limits.connections_max, 500);
}

#[test]
fn no_more_connections_are_let_in_than_leave_the_store_its_descriptors() {
    let epoll = "[server]\nengine = \"epoll\"\n";
    let files = "[server]\nengine = \"epoll\"\n[www]\ndir = \"/srv\"\n";
    let wanted = "[limits]\nconnections_max = 300\n";
    let memory = "[store]\nkind = \"memory\"\n";
    let few = "[limits]\nconnections_max = 3\n";
    let rows: &[(&str, Option<u64>, usize)] = &[
        ("", None, 500),
        ("", Some(1 << 40), 500),
        ("", Some(4096), 500),
        ("", Some(1024), 204),
        ("", Some(256), 8),
        (memory, Some(256), 42),
        (wanted, Some(1024), 204),
        (wanted, Some(2048), 300),
        (few, Some(1024), 3),
        (few, Some(250), 3),
        (epoll, None, 12_000),
        (epoll, Some(1 << 30), 12_000),
        (epoll, Some(4096), 3584),
        (epoll, Some(1024), 614),
        (epoll, Some(256), 38),
        (files, Some(32_768), 12_000),
        (files, Some(1024), 307),
    ];
    for (text, descriptors, most) in rows {
        let mut setup = Setup::file(text);
        setup.inputs.board.descriptors = *descriptors;
        let config = setup.config();
        let limits = &config.limits;
        assert_eq!(limits.connections_max, *most, "{text} {descriptors:?}");
        assert!(limits.connections_per_address_max <= limits.connections_max);
        let told = larder::config::descriptors::cut(&config);
        let wanted = config.connections_wanted;
        let begin = format!("limits.connections_max is cut from {wanted} to {most}: of the ");
        assert_eq!(told.is_some(), wanted > *most, "{text} {descriptors:?}");
        assert!(told.is_none_or(|told| told.starts_with(&begin)));
    }
    for (text, descriptors) in [("", 40), ("", 200), (epoll, 40), (epoll, 200), (memory, 40), (few, 200)] {
        let mut setup = Setup::file(text);
        setup.inputs.board.descriptors = Some(descriptors);
        let errors = setup.errors();
        assert!(errors.len() == 1 && errors[0].contains("ulimit -n"), "{text} {descriptors}: {errors:?}");
    }
}

#[test]
fn every_kind_of_address_is_understood() {
    let given = Setup::file(
        "[server]\nengine = \"epoll\"\nlisten = [\"127.0.0.1:0\", \"[::1]:8080\", \"localhost:9\", \"unix:/run/l.sock\", \"fd://\"]\n",
    );
    let listen = given.config().listen;
    assert_eq!(listen[0], ListenAddress::Tcp(([127, 0, 0, 1], 0).into()));
    assert_eq!(listen[2], ListenAddress::Tcp(([127, 0, 0, 1], 9).into()));
    assert_eq!(listen[3], ListenAddress::Unix(PathBuf::from("/run/l.sock")));
    assert_eq!(listen[4], ListenAddress::Inherited);
    assert_eq!(given.config().engine, EngineKind::Epoll);
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_the_nearest_right_name() {
    for (file, error) in [
        ("[server]\nlistn = \"x\"", "larder.toml:2: `server.listn` is not a setting; did you mean `server.listen`?"),
        (
            "[server]\nworkers = \"4\"",
            "larder.toml:2: server.workers: expected a whole number, such as 8, not the text \"4\"",
        ),
        ("[server]\n\nworkers = 0", "larder.toml:3: server.workers: 0 is outside of 1 to 1024"),
        (
            "[server]\nengine = \"epol\"",
            "larder.toml:2: server.engine: expected one of \"tiny_http\", \"epoll\", not `epol`; did you mean `epoll`?",
        ),
        (
            "[cache]\nsize = \"1 mb\"",
            "larder.toml:2: cache.size: expected a size such as 32MiB, 4KB or 512 (bytes), not `1 mb`",
        ),
        (
            "[log]\nslow_request = 5",
            "larder.toml:2: log.slow_request: expected a duration such as \"30s\" or \"250ms\", not the number 5",
        ),
        ("[cors]\norigins = \"https://a/b\"", "larder.toml:2: cors.origins: expected an origin as browsers send it"),
        (
            "[cors]\norigins = [\"http://app.example:80\"]",
            "larder.toml:2: cors.origins: expected an origin as browsers send it, which is `http://app.example`",
        ),
        ("[cors]\nheaders = [\"X Device\"]", "larder.toml:2: cors.headers: expected the name of a header field"),
        ("[www]\nimmutable = [\"assets\"]", "larder.toml:2: www.immutable: expected a folder between slashes"),
        ("[auth]\nhosts = \"http://a\"", "larder.toml:2: auth.hosts: expected a host's name without scheme"),
        ("[auth]\nhosts = [\"*.example\"]", "larder.toml:2: auth.hosts: expected a host's name without scheme"),
        (
            "[[cache_control]]\nvalue = \"privat, max-agge=60\"",
            "larder.toml:2: cache_control.value: `privat` is no directive of Cache-Control; did you mean `private`?",
        ),
        (
            "[[cache_control]]\nnamespace = \"a\"\nvalue = \"private, max-agge=60\"",
            "larder.toml:3: cache_control.value: `max-agge` is no directive of Cache-Control; did you mean `max-age`?",
        ),
        (
            "[[cache_control]]\nvalue = \"public;max-age=9\"",
            "larder.toml:2: cache_control.value: `public;max-age=9`: directives are",
        ),
        (
            "[[cache_control]]\nvalue = \"public =1\"",
            "larder.toml:2: cache_control.value: `public =1`: public stands alone",
        ),
        (
            "[[cache_control]]\nvalue = \"private, max-age=-1\"",
            "larder.toml:2: cache_control.value: `max-age=-1`: max-age wants whole seconds",
        ),
        ("[[cache_control]]\nvalue = \"private, private\"", "larder.toml:2: cache_control.value: private stands twice"),
        (
            "[[cache_control]]\nvalue = \"no-store, max-age=6\"",
            "larder.toml:2: cache_control.value: no-store and max-age contradict",
        ),
        ("[auth]\npublic_read = [\"_x\"]", "larder.toml:2: auth.public_read: `_x` is no namespace"),
        ("[server]\nlisten = \"8080\"", "larder.toml:2: server.listen: expected an address with a port"),
        ("[server]\nlisten = 8080", "larder.toml:2: server.listen: expected an address with a port, such as"),
        (
            "[server]\nlisten = [8080]",
            "larder.toml:2: server.listen: expected text in quotes, such as \"127.0.0.1:8080\", or a list of such texts",
        ),
        ("[server]\nworkers = [4]", "larder.toml:2: server.workers: expected a whole number, such as 8, not a list"),
        (
            "[server]\nworkers = 2026-01-01",
            "larder.toml:2: server.workers: expected a whole number, such as 8, not a date",
        ),
        (
            "[server]\nworkers = {a = 1}",
            "larder.toml:2: server.workers: expected a whole number, such as 8, not a table",
        ),
        (
            "[store]\ndir = 5",
            "larder.toml:2: store.dir: expected text in quotes, such as \"/var/lib/larder\", not the number 5",
        ),
        (
            "[server]\nengine = true",
            "larder.toml:2: server.engine: expected text in quotes, such as \"tiny_http\", not true",
        ),
        ("[www]\npublic = \"true\"", "larder.toml:2: www.public: expected true or false, without quotes, not the text"),
        (
            "[rate]\nper_second = \"2\"",
            "larder.toml:2: rate.per_second: expected a number greater than 0, such as 2.5, not",
        ),
        (
            "[server]\ntrusted_proxies = [\"10.0.0.1/8\"]",
            "larder.toml:2: server.trusted_proxies: `10.0.0.1/8` is an address within a network: did you mean 10.0.0.0/8",
        ),
        ("[server]\nlisten = []", "larder.toml:2: server.listen: names no address"),
        ("[server]\nlisten = [\"fd://\", \"fd://\"]", "larder.toml:2: server.listen: names fd:// twice"),
        (
            "[server]\nlisten = [\"127.0.0.1:80\", \"[::ffff:127.0.0.1]:80\"]",
            "larder.toml:2: server.listen: names 127.0.0.1:80 twice",
        ),
        (
            "[cache]\nsize = 16",
            "larder.toml:2: cache.size: 16 is outside of 64KiB to 64GiB; a number without a unit is bytes: \"16MiB\" may be meant",
        ),
        ("[store]\nreserve = \"512\"", "larder.toml:2: store.reserve: 512 is outside of 1MiB to "),
        (
            "[store]\nblock_cache = 8",
            "larder.toml:2: store.block_cache: 8 is outside of 256KiB to 1GiB; a number without",
        ),
        ("[limits]\nidle_timeout = \"0s\"", "larder.toml:2: limits.idle_timeout: 0s is outside of 1s to 1440m"),
    ] {
        let errors = Setup::file(file).errors();
        assert_eq!(errors.len(), 1, "{file}: {errors:?}");
        assert!(errors[0].starts_with(error), "{file}: {errors:?}");
    }
}

#[test]
fn a_size_may_be_none_where_that_makes_sense_and_bytes_where_they_are_enough() {
    let given = Setup::file("[cache]\nsize = 0\n[store]\nreserve = 0\n[compress]\nthreshold_bytes = 512\n").config();
    assert_eq!((given.cache_bytes, given.reserve_bytes, given.compress_threshold_bytes), (0, Some(0), 512));
    assert_eq!(Setup::file("[cache]\nsize = 1048576").config().cache_bytes, 1 << 20);
}

#[test]
fn what_the_build_and_the_clients_are_told_is_no_setting() {
    for name in ["LARDER_COMMIT", "LARDER_URL", "LARDER_TOKEN"] {
        assert!(Setup::file("").env(name, "x").config().inputs.environment.iter().any(|(given, _)| given == name));
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let given = Setup::file("[server]\nwrokers = 1\nlisten = 5\n").env("LARDER_LOGLEVEL", "info");
    assert_eq!(given.errors().len(), 3, "{:?}", given.errors());
}

#[test]
fn settings_that_contradict_each_other_stop_the_start_at_a_line_the_user_wrote() {
    for (file, line, part) in [
        ("[server]\nlisten = \"unix:/run/l.sock\"", 2, "tiny_http has TCP only"),
        ("[www]\nspa = true", 2, "www.dir"),
        ("[auth]\nhosts = \"kv.example.org\"", 2, "auth.mode"),
        ("[rate]\nburst = 5", 2, "rate.per_second"),
        ("[limits]\nvalue_bytes_max = \"8MiB\"", 2, "limits.body_bytes_max"),
        ("[limits]\nbody_bytes_max = \"8KiB\"", 2, "limits.value_bytes_max"),
        ("[limits]\nbodies_bytes_max = \"3MiB\"", 2, "limits.body_bytes_max"),
        ("[limits]\nconnections_max = 5\nconnections_per_address_max = 6", 3, "limits.connections_max"),
        ("[limits]\nhead_bytes_max = \"4KiB\"", 2, "limits.target_bytes_max"),
        ("[limits]\nheads_bytes_max = \"64KiB\"\nhead_bytes_max = \"128KiB\"", 2, "the memory for all heads"),
        ("[server]\nlisten = [\"127.0.0.1:80\", \"0.0.0.0:80\"]", 2, "0.0.0.0:80 takes what comes to 127.0.0.1:80 too"),
        ("[server]\nlisten = [\"[::]:80\", \"[::1]:80\"]", 2, "[::]:80 takes what comes to [::1]:80 too"),
        ("[limits]\nbody_timeout = \"5s\"", 2, "limits.body_grace"),
        ("[store]\nmemtable = \"100MiB\"", 2, "three quarters of the memory"),
        ("[[cache_control]]\nvalue = \"public, max-age=60\"", 1, "auth.public_read"),
        ("\n[[cache_control]]\nnamespace = \"a\"\nvalue = \"s-maxage=1\"", 2, "s-maxage"),
        ("[[cache_control]]\nvalue = \"max-age=60, must-revalidate\"", 1, "`must-revalidate` lets shared caches keep"),
        (
            "[[cache_control]]\nnamespace = \"a\"\nvalue = \"max-age=60, proxy-revalidate\"",
            1,
            "`proxy-revalidate` lets",
        ),
        ("[auth]\npublic_read = \"a\"\n[[cache_control]]\nvalue = \"Public\"", 3, "`public` lets shared caches keep"),
        ("[[cache_control]]\nnamespace = \"a/b\"\nvalue = \"private\"", 1, "a/b"),
    ] {
        let errors = Setup::file(file).errors();
        assert_eq!(errors.len(), 1, "{file}: {errors:?}");
        assert!(errors[0].starts_with(&format!("larder.toml:{line}: ")), "{file}: {errors:?}");
        assert!(errors[0].contains(part), "{file}: {errors:?}");
    }
}

#[test]
fn a_public_rule_is_fine_where_anyone_may_read() {
    let file =
        "[auth]\npublic_read = [\"site\"]\n[[cache_control]]\nnamespace = \"site\"\nvalue = \"public, max-age=60\"\n";
    assert_eq!(Setup::file(file).config().cache_control.len(), 1);
    let open = "[auth]\nmode = \"open\"\n[[cache_control]]\nvalue = \"max-age=60, must-revalidate\"\n";
    assert_eq!(Setup::file(open).config().cache_control.len(), 1);
    let closed = "[[cache_control]]\nvalue = \"private, must-revalidate, max-age=60\"\n";
    assert_eq!(Setup::file(closed).config().cache_control.len(), 1);
}

#[test]
fn a_named_file_must_be_readable_and_the_usual_one_may_be_missing() {
    let mut given = Setup::file("");
    given.inputs.file = Some(given.folder.path().join("missing.toml"));
    assert!(given.errors()[0].contains("cannot read the configuration file missing.toml"), "{:?}", given.errors());
    given.inputs.file = None;
    given.inputs.default_file = Some(given.folder.path().join("missing.toml"));
    assert!(load(&given.inputs).is_ok());
    given.inputs.environment.push(("LARDER_CONFIG".into(), given.folder.path().join("other.toml").into()));
    assert_eq!(given.errors().len(), 1);
}

#[test]
fn systemd_names_the_data_folder_and_any_setting_beats_it() {
    let given = Setup::file("").env("STATE_DIRECTORY", "/var/lib/larder:/var/lib/other");
    assert_eq!(given.config().data_dir, Path::new("/var/lib/larder"));
    let given = Setup::file("[store]\ndir = \"/data\"").env("STATE_DIRECTORY", "/var/lib/larder");
    assert_eq!(given.config().data_dir, Path::new("/data"));
    assert_eq!(given.config().tokens_path(), Path::new("/data/tokens.jsonl"));
}

#[test]
fn a_reload_takes_level_and_limits_and_names_what_needs_a_restart() {
    let given = Setup::file("[log]\nlevel = \"info\"\n");
    let config = given.config();
    let path = given.folder.path().join("larder.toml");
    let changed = "[log]\nlevel = \"debug\"\n[limits]\nstreams_max = 3\n[server]\nworkers = 9\n";
    std::fs::write(&path, changed).expect("the file can be changed");
    let reloaded = config.reload().expect("a good configuration");
    assert_eq!(reloaded.log_level, log::LevelFilter::Debug);
    assert_eq!(reloaded.limits.streams_max, 3);
    assert_eq!(reloaded.needs_restart, ["server.workers"]);
    std::fs::write(&path, "[log]\nlevel = \"loud\"\n").expect("the file can be changed");
    assert!(config.reload().is_err());
}

/// Not a test of its own: the way to write the shipped file anew after the table of settings has changed.
#[test]
fn the_shipped_file_is_written_when_asked_for() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/larder.toml");
    if std::env::var_os("LARDER_WRITE_EXAMPLE").is_some() {
        std::fs::write(&path, larder::config::example::render()).expect("the file can be written");
    }
    assert_eq!(std::fs::read_to_string(path).expect("the file is there"), larder::config::example::render());
}
