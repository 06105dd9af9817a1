//! The README's table of settings is the table of settings. `README_WRITE=1 cargo test --test readme` renews it.
#![allow(clippy::unwrap_used)]

use larder::config::Config;
use larder::config::settings::SETTINGS;

const BEGIN: &str = "<!-- settings: begin -->\n";
const END: &str = "<!-- settings: end -->";

fn table() -> String {
    let defaults = Config::defaults(512 << 20, 4);
    let mut text = String::from("| setting | default (512 MB, 4 cores) | meaning |\n|---|---|---|\n");
    for setting in SETTINGS {
        let value = setting.field.show(&defaults).unwrap_or_default();
        let value = if value.is_empty() { "–".to_owned() } else { format!("`{value}`") };
        let help = setting.help.replace('\n', " ").replace('|', "\\|");
        text.push_str(&format!("| `{}` | {value} | {help} |\n", setting.name()));
    }
    text
}

#[test]
fn the_readme_shows_every_setting() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let begin = readme.find(BEGIN).expect("the begin mark") + BEGIN.len();
    let end = readme.find(END).expect("the end mark");
    if std::env::var_os("README_WRITE").is_some() {
        std::fs::write(path, format!("{}{}{}", &readme[..begin], table(), &readme[end..])).unwrap();
        return;
    }
    assert!(readme[begin..end] == table(), "the table is out of date: README_WRITE=1 cargo test --test readme");
}
