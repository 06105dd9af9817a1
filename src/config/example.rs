//! The configuration file as shipped, made from the table of settings: every one commented, with unit and default.

use super::Config;
use super::settings::SETTINGS;

const HEAD: &str = "\
# larder's configuration, read at start; `larder check` says what is in force and where it came from.
#
# Every setting stands here with its default on a board with 512 MiB and 4 cores. Defaults follow the machine, so
# remove the `#` only before what you want to fix. Stronger than this file: LARDER_<SECTION>_<KEY> in the environment,
# then the flags of `larder serve`. Sizes: 32MiB, 4KB or bytes; durations: 250ms, 30s, 10m.
# SIGHUP (systemctl reload larder) reads log.level, [limits] and the tokens again; all else needs a restart.
";

const TAIL: &str = "
# Cache-Control of values, by namespace and collection (without them: all); the first rule that fits counts.
# No age outlives the value. Where a token is needed, `public`, `s-maxage`, `must-revalidate` and `proxy-revalidate` are
# refused without `private`, and an age is sent with it.
#[[cache_control]]
#namespace = \"site\"
#collection = \"pages\"
#value = \"private, max-age=60\"

# Stored HTML, SVG and XML are sent with `Content-Security-Policy: sandbox`, so that no script in them runs on larder's own
# origin, which is that of www.dir. These collections (without `collection`: the whole namespace) are sent without.
#[[unsandboxed]]
#namespace = \"site\"
#collection = \"pages\"
";

/// Where the packaged service keeps its data: root's `larder token add` must find the same folder.
const SERVICE_DIR: &str = "dir = \"/var/lib/larder\"";

/// What to write where the default is to have none.
fn instance(name: &str) -> &'static str {
    match name {
        "store.reserve" => "\"256MiB\"",
        "auth.tokens_file" => "\"/var/lib/larder/tokens.jsonl\"",
        "rate.per_second" => "50",
        "www.dir" => "\"/srv/www\"",
        _ => "\"\"",
    }
}

/// The text of `systemd/larder.toml`.
pub fn render() -> String {
    let defaults = Config::defaults(512 << 20, 4);
    let mut text = String::from(HEAD);
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            text.push_str(&format!("\n[{section}]\n"));
        }
        for line in setting.help.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        match (setting.name().as_str(), setting.field.show(&defaults)) {
            ("store.dir", _) => text.push_str(&format!("{SERVICE_DIR}\n")),
            (_, Some(value)) => text.push_str(&format!("#{} = {value}\n", setting.key)),
            (name, None) => text.push_str(&format!("#{} = {}\n", setting.key, instance(name))),
        }
    }
    text.push_str(TAIL);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;
    use std::path::Path;

    #[test]
    fn every_commented_line_can_be_uncommented() {
        let lines = render()
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned())
            .collect::<Vec<_>>();
        let mut errors = Vec::new();
        let read = file::parse(Path::new("larder.toml"), &lines.join("\n"), &mut errors);
        assert_eq!(errors, []);
        assert_eq!(read.given.len(), SETTINGS.len());
        let mut config = Config::defaults(512 << 20, 4);
        for (index, given, source) in read.given {
            assert_eq!(SETTINGS[index].field.set(&mut config, &given), Ok(()), "{source}");
        }
    }
}
