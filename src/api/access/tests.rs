//! The rules of access as tables.

use std::path::Path;

use super::*;

const NEAR: &str = "127.0.0.1";
const FAR: &str = "192.168.1.9";

struct Setup {
    folder: tempfile::TempDir,
    config: Config,
}

impl Setup {
    fn new() -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::defaults(512 << 20, 1);
        config.data_dir = folder.path().to_owned();
        Setup { folder, config }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn token(&self, name: &str, scope: Scope, namespaces: &[&str], expires: Option<u64>) -> String {
        let namespaces = namespaces.iter().map(|&name| name.to_owned()).collect();
        let (mut token, text) = Token::generate(name, scope, namespaces, 1_000).unwrap();
        token.expires = expires;
        file::change(&self.config.tokens_path(), |tokens| {
            tokens.push(token);
            Ok(())
        })
        .unwrap();
        text
    }

    fn access(&self) -> Access {
        Access::open(&self.config, &Registry::default()).unwrap()
    }
}

fn head(fields: &[(&str, &str)]) -> Head {
    let mut head = Head::new("/");
    for (name, value) in fields {
        head.push(name.as_bytes(), value.as_bytes());
    }
    head
}

fn peer(address: &str) -> Peer {
    Peer::Tcp(address.parse().unwrap(), 9)
}

fn status(result: Result<Grant, Problem>) -> u16 {
    result.map_or_else(|problem| problem.status, |_| 200)
}

#[test]
fn without_tokens_this_machine_may_do_all_and_others_nothing() {
    let access = Setup::new().access();
    for (address, fields, expected) in [
        (NEAR, &[("Host", "localhost:8080")][..], 200),
        (FAR, &[("Host", "localhost:8080")], 401),
        (NEAR, &[("Host", "evil.example")], 401),
        (NEAR, &[("Host", "localhost"), ("X-Forwarded-For", "127.0.0.1")], 401),
        (NEAR, &[("Host", "localhost"), ("Origin", "http://evil.example")], 401),
        (NEAR, &[("Host", "localhost"), ("Authorization", "Bearer ldr_x_y")], 401),
    ] {
        for needed in [Scope::Read, Scope::Write, Scope::Admin] {
            let result = access.authorize(&head(fields), peer(address), Method::Post, needed, Some("a"));
            assert_eq!(status(result), expected, "{address} {fields:?} {needed}");
        }
    }
}

#[test]
fn once_there_is_a_token_this_machine_needs_one_too() {
    let setup = Setup::new();
    setup.token("one", Scope::Read, &[], None);
    let access = setup.access();
    let anonymous = access.authorize(&head(&[("Host", "localhost")]), peer(NEAR), Method::Get, Scope::Read, None);
    assert_eq!(status(anonymous), 401);
}

#[test]
fn open_mode_lets_everyone_in() {
    let mut setup = Setup::new();
    setup.config.auth_mode = AuthMode::Open;
    setup.token("one", Scope::Read, &[], None);
    let grant = setup.access().authorize(&head(&[]), peer(FAR), Method::Put, Scope::Admin, None).unwrap();
    assert!(!grant.is_restricted());
}

#[test]
fn open_mode_lets_in_no_page_of_elsewhere() {
    let mut setup = Setup::new();
    setup.config.auth_mode = AuthMode::Open;
    setup.config.auth_hosts = vec!["kv.example.org".into()];
    setup.config.cors_origins = vec!["https://app.example".into()];
    let access = setup.access();
    let own = local::own_name();
    for (fields, expected) in [
        (&[("Host", "192.168.1.5:8080")][..], 200),
        (&[("Host", own.as_str())], 200),
        (&[("Host", "kv.example.org"), ("Origin", "https://kv.example.org")], 200),
        (&[("Host", "attic-pi.local"), ("Origin", "https://app.example")], 200),
        (&[("Host", "evil.example"), ("Origin", "http://evil.example")], 403),
        (&[("Host", "attic-pi.local"), ("Origin", "http://evil.example")], 403),
        (&[("Host", "attic-pi.local"), ("Sec-Fetch-Site", "cross-site")], 403),
    ] {
        for method in [Method::Get, Method::Post] {
            let one = access.authorize(&head(fields), peer(FAR), method, Scope::Read, Some("a"));
            let each = access.authorize_each(&head(fields), peer(FAR), method);
            assert_eq!((status(one), status(each)), (expected, expected), "{fields:?}");
        }
    }
    assert_eq!(access.failures.foreign.get(), 12);
}

#[test]
fn a_token_may_do_what_its_scope_says_where_it_reaches() {
    let setup = Setup::new();
    let read = setup.token("read", Scope::Read, &[], None);
    let write = setup.token("write", Scope::Write, &["home"], None);
    let admin = setup.token("admin", Scope::Admin, &[], None);
    let access = setup.access();
    for (token, needed, namespace, expected) in [
        (&read, Scope::Read, Some("home"), 200),
        (&read, Scope::Read, None, 200),
        (&read, Scope::Write, Some("home"), 403),
        (&write, Scope::Read, Some("home"), 200),
        (&write, Scope::Write, Some("home"), 200),
        (&write, Scope::Write, Some("other"), 403),
        (&write, Scope::Read, Some("other"), 403),
        (&write, Scope::Read, Some("Home"), 403),
        (&write, Scope::Admin, Some("home"), 403),
        (&write, Scope::Read, None, 200),
        (&admin, Scope::Admin, None, 200),
        (&admin, Scope::Write, Some("other"), 200),
    ] {
        let head = head(&[("Authorization", &format!("Bearer {token}"))]);
        let result = access.authorize(&head, peer(FAR), Method::Put, needed, namespace);
        assert_eq!(status(result), expected, "{needed} {namespace:?}");
    }
    let grant =
        access.authorize_each(&head(&[("Authorization", &format!("bearer  {write}"))]), peer(FAR), Method::Post);
    let grant = grant.unwrap();
    assert!(grant.is_restricted() && grant.reaches("home") && !grant.reaches("other"));
    assert!(grant.require(Scope::Write, Some("other")).is_err());
    assert!(write.contains(grant.token_id().unwrap()));
}

#[test]
fn what_is_no_good_token_is_401_with_a_challenge() {
    let setup = Setup::new();
    let good = setup.token("good", Scope::Admin, &[], None);
    let ended = setup.token("ended", Scope::Admin, &[], Some(1_001));
    let access = setup.access();
    let mut tampered = good.clone().into_bytes();
    let last = tampered.last_mut().unwrap();
    *last = if *last == b'A' { b'B' } else { b'A' };
    let tampered = format!("Bearer {}", String::from_utf8(tampered).unwrap());
    for value in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Digest x",
        &tampered,
        &good,
        &format!("Bearer {ended}"),
        &format!("Bearer {good} x"),
    ] {
        let head = head(&[("Host", "localhost"), ("Authorization", value)]);
        let problem = access.authorize(&head, peer(NEAR), Method::Get, Scope::Read, None).unwrap_err();
        assert_eq!((problem.status, problem.code), (401, "UNAUTHORIZED"), "{value}");
        assert!(problem.fields.starts_with(b"WWW-Authenticate: Bearer"), "{value}");
        assert!(!problem.message.contains(&good[8..]));
    }
    let good = format!("Bearer {good}");
    let twice = head(&[("Authorization", &good), ("Authorization", &good)]);
    assert_eq!(status(access.authorize(&twice, peer(NEAR), Method::Get, Scope::Read, None)), 401);
    assert_eq!(access.failures.expired.get(), 1);
    assert_eq!(access.failures.unknown.get(), 1);
    assert!(access.failures.malformed.get() > 4);
}

#[test]
fn a_clock_that_stands_in_1970_revives_no_expired_token() {
    let setup = Setup::new();
    let far_future = 40_000_000_000;
    let old = setup.token("old", Scope::Read, &[], Some(far_future));
    let (mut newer, _) = Token::generate("newer", Scope::Read, Vec::new(), far_future + 1).unwrap();
    newer.expires = None;
    file::change(&setup.config.tokens_path(), |tokens| {
        tokens.push(newer);
        Ok(())
    })
    .unwrap();
    let head = head(&[("Authorization", &format!("Bearer {old}"))]);
    assert_eq!(status(setup.access().authorize(&head, peer(FAR), Method::Get, Scope::Read, None)), 401);
}

#[test]
fn a_browser_may_read_with_the_token_as_password_but_not_write() {
    let setup = Setup::new();
    let token = setup.token("page", Scope::Admin, &[], None);
    let access = setup.access();
    let encode = |text: String| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    for (value, method, expected) in [
        (encode(format!("anyone:{token}")), Method::Get, 200),
        (encode(format!(":{token}")), Method::Head, 200),
        (encode(format!("anyone:{token}")), Method::Put, 401),
        (encode(format!("anyone:{token}")), Method::Post, 401),
        (encode(token.clone()), Method::Get, 401),
        (encode("a:b".into()), Method::Get, 401),
        ("Basic %%%".into(), Method::Get, 401),
    ] {
        let head = head(&[("Authorization", &value)]);
        assert_eq!(status(access.authorize(&head, peer(FAR), method, Scope::Read, None)), expected, "{method:?}");
    }
    let refused =
        challenge_browser(access.authorize(&head(&[]), peer(FAR), Method::Get, Scope::Read, None).unwrap_err());
    assert!(String::from_utf8(refused.fields).unwrap().contains("\r\nWWW-Authenticate: Basic realm="));
}

#[test]
fn public_namespaces_may_be_read_by_anyone_and_nothing_else() {
    let mut setup = Setup::new();
    setup.config.public_read = vec!["site".into()];
    setup.token("one", Scope::Read, &["home"], None);
    let access = setup.access();
    let none = || head(&[("Host", "larder.example"), ("X-Forwarded-For", "1.2.3.4")]);
    for (needed, namespace, expected) in [
        (Scope::Read, Some("site"), 200),
        (Scope::Read, Some("home"), 401),
        (Scope::Read, None, 401),
        (Scope::Write, Some("site"), 401),
        (Scope::Admin, Some("site"), 401),
    ] {
        let result = access.authorize(&none(), peer(FAR), Method::Get, needed, namespace);
        assert_eq!(status(result), expected, "{needed} {namespace:?}");
    }
    let grant = access.authorize_each(&none(), peer(FAR), Method::Get).unwrap();
    assert!(grant.reaches("site") && !grant.reaches("home") && grant.is_restricted());
    assert_eq!(grant.require(Scope::Write, Some("site")).unwrap_err().status, 401);
    let bad = head(&[("Authorization", "Bearer nonsense")]);
    let result = access.authorize(&bad, peer(FAR), Method::Get, Scope::Read, Some("site"));
    assert_eq!(status(result), 401, "a bad token is not served as none");
}

#[test]
fn a_websocket_brings_its_token_as_a_subprotocol() {
    let setup = Setup::new();
    let token = setup.token("page", Scope::Admin, &[], None);
    let access = setup.access();
    let offers = format!("larder.v1, larder.bearer.{token}");
    let protocol = ("Sec-WebSocket-Protocol", offers.as_str());
    let (connection, upgrade) = (("Connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket"));
    let (version, key) = (("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="));
    let twice = format!("larder.bearer.{token}, larder.bearer.{token}");
    for (fields, method, expected) in [
        (&[protocol, connection, upgrade, version, key][..], Method::Get, 200),
        (&[("Sec-WebSocket-Protocol", "larder.v1"), connection, upgrade, version, key], Method::Get, 401),
        (&[("Sec-WebSocket-Protocol", "larder.bearer.x"), connection, upgrade, version, key], Method::Get, 401),
        (&[("Sec-WebSocket-Protocol", &twice), connection, upgrade, version, key], Method::Get, 401),
        (&[protocol, connection, upgrade, version, key], Method::Head, 401),
        (&[protocol, connection, upgrade, version, key], Method::Post, 401),
        (&[protocol, connection, upgrade, version, key], Method::Put, 401),
        (&[protocol, connection, upgrade, version, key], Method::Delete, 401),
        (&[protocol], Method::Get, 401),
        (&[protocol, upgrade, version, key], Method::Get, 401),
        (&[protocol, connection, version, key], Method::Get, 401),
        (&[protocol, connection, ("Upgrade", "h2c"), version, key], Method::Get, 401),
        (&[protocol, connection, upgrade, key], Method::Get, 401),
        (&[protocol, connection, upgrade, ("Sec-WebSocket-Version", "8"), key], Method::Get, 401),
        (&[protocol, connection, upgrade, version], Method::Get, 401),
        (&[protocol, connection, upgrade, version, ("Sec-WebSocket-Key", "c2hvcnQ=")], Method::Get, 401),
    ] {
        let result = access.authorize(&head(fields), peer(FAR), method, Scope::Read, None);
        assert_eq!(status(result), expected, "{method:?} {fields:?}");
    }
}

#[test]
fn tokens_come_and_go_while_larder_runs_and_a_broken_file_changes_nothing() {
    let setup = Setup::new();
    let access = setup.access();
    assert!(!access.has_tokens());
    assert!(access.refresh().is_none());
    let token = setup.token("late", Scope::Read, &[], None);
    assert_eq!(access.refresh().unwrap().unwrap(), 1);
    let head = head(&[("Authorization", &format!("Bearer {token}"))]);
    let allowed = || status(access.authorize(&head, peer(FAR), Method::Get, Scope::Read, None));
    assert_eq!(allowed(), 200);

    std::fs::write(setup.config.tokens_path(), "broken\n").unwrap();
    assert!(access.refresh().unwrap().is_err());
    assert!(access.refresh().is_none(), "one complaint a change");
    assert_eq!(allowed(), 200);
    std::fs::write(setup.config.tokens_path(), "").unwrap();
    assert!(access.refresh().unwrap().is_err(), "an emptied file must not open the store");
    assert_eq!(allowed(), 200);
    std::fs::remove_file(setup.config.tokens_path()).unwrap();
    assert!(access.reload().is_err(), "a lost file must not open the store");
    assert_eq!(allowed(), 200);

    setup.token("other", Scope::Read, &[], None);
    assert_eq!(access.reload().unwrap(), 1);
    assert_eq!(allowed(), 401);
    file::change(&setup.config.tokens_path(), |tokens| {
        tokens.clear();
        Ok(())
    })
    .unwrap();
    assert_eq!(access.reload().unwrap(), 0);
    assert!(!access.has_tokens());
    assert!(setup.path().exists());
}

#[test]
fn a_tokens_file_that_was_named_must_be_there() {
    let mut setup = Setup::new();
    setup.config.tokens_file = Some(setup.path().join("missing.jsonl"));
    let error = Access::open(&setup.config, &Registry::default()).err().unwrap();
    assert!(error.message.contains("larder token add"), "{error}");
}
