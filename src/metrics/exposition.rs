//! The page in Prometheus text format 0.0.4. Renders what it is given; takes no lock and samples nothing.
//!
//! A distribution is a summary since the start, and gauges for what a summary has no place for: least, greatest and the
//! figures of the last minute. Those are gauges since they go down again, which `_count` and `_sum` of a summary must not.

use std::fmt::Write;

use super::family::{FamilyView, Figure, Kind};
use super::window::{QUANTILES, Stats};

/// Renders families in their order.
pub(super) fn render(families: &[FamilyView]) -> String {
    let mut page = String::new();
    for family in families {
        match family.kind {
            Kind::Counter => plain(&mut page, family, "counter"),
            Kind::Gauge => plain(&mut page, family, "gauge"),
            Kind::Distribution => distribution(&mut page, family),
        }
    }
    page
}

/// The factor from what was recorded to what is shown: durations are recorded in microseconds.
pub(super) fn scale(name: &str) -> f64 {
    if name.ends_with("_seconds") { 1e6 } else { 1.0 }
}

fn plain(page: &mut String, family: &FamilyView, kind: &str) {
    header(page, family.name, kind, family.help);
    for (labels, figure) in &family.series {
        if let Figure::Number(number) = figure {
            sample(page, family.name, labels, None, *number);
        }
    }
}

/// A series, with what is shown of it.
type Row<'a> = (&'a [(&'static str, String)], Stats);

fn distribution(page: &mut String, family: &FamilyView) {
    let per = scale(family.name);
    let rows = |pick: fn(&Stats, &Stats) -> Stats| -> Vec<Row<'_>> {
        let seen = family.series.iter().filter_map(|(labels, figure)| match figure {
            Figure::Distribution { total, last_minute } => Some((labels.as_slice(), pick(total, last_minute))),
            Figure::Number(_) => None,
        });
        seen.filter(|(_, stats)| stats.count > 0).collect()
    };
    let total = rows(|total, _| *total);
    if total.is_empty() {
        return;
    }
    summary(page, family, &total, per);
    let help = |what: &str| format!("{what} of {}, since the start.", family.name);
    gauge(page, &named(family.name, "min"), &help("Least value"), &total, |stats| stats.min as f64 / per);
    gauge(page, &named(family.name, "max"), &help("Greatest value"), &total, |stats| stats.max as f64 / per);

    let recent = rows(|_, last_minute| *last_minute);
    if recent.is_empty() {
        return;
    }
    let help = |what: &str| format!("{what} of {} over the last 50 to 60 seconds.", family.name);
    let name = named(family.name, "last_minute");
    header(page, &name, "gauge", &help("Percentiles"));
    for (labels, stats) in &recent {
        for (quantile, value) in QUANTILES.iter().zip(stats.quantiles) {
            sample(page, &name, labels, Some(("percentile", percentile(*quantile))), value as f64 / per);
        }
    }
    let name = |what: &str| named(family.name, &format!("last_minute_{what}"));
    gauge(page, &name("min"), &help("Least value"), &recent, |stats| stats.min as f64 / per);
    gauge(page, &name("max"), &help("Greatest value"), &recent, |stats| stats.max as f64 / per);
    gauge(page, &name("added"), &help("Sum"), &recent, |stats| stats.sum as f64 / per);
    let observations = format!("{}_last_minute_observations", stem(family.name).0);
    gauge(page, &observations, &help("Number of values"), &recent, |stats| stats.count as f64);
}

fn summary(page: &mut String, family: &FamilyView, rows: &[Row<'_>], per: f64) {
    header(page, family.name, "summary", family.help);
    for (labels, stats) in rows {
        for (quantile, value) in QUANTILES.iter().zip(stats.quantiles) {
            sample(page, family.name, labels, Some(("quantile", quantile.to_string())), value as f64 / per);
        }
        sample(page, &format!("{}_sum", family.name), labels, None, stats.sum as f64 / per);
        sample(page, &format!("{}_count", family.name), labels, None, stats.count as f64);
    }
}

fn gauge(page: &mut String, name: &str, help: &str, rows: &[Row<'_>], value: impl Fn(&Stats) -> f64) {
    header(page, name, "gauge", help);
    for (labels, stats) in rows {
        sample(page, name, labels, None, value(stats));
    }
}

/// `0.999` as `99.9`.
fn percentile(quantile: f64) -> String {
    ((quantile * 1000.0).round() / 10.0).to_string()
}

/// A name with a word before its unit: `x_seconds` and `min` make `x_min_seconds`.
fn named(name: &str, word: &str) -> String {
    let (stem, unit) = stem(name);
    format!("{stem}_{word}{unit}")
}

/// Splits a name into its stem and its unit, if it ends in one.
fn stem(name: &str) -> (&str, &'static str) {
    for unit in ["_seconds", "_bytes"] {
        if let Some(stem) = name.strip_suffix(unit) {
            return (stem, unit);
        }
    }
    (name, "")
}

fn header(page: &mut String, name: &str, kind: &str, help: &str) {
    page.push_str("# HELP ");
    page.push_str(name);
    page.push(' ');
    escape(page, help, false);
    // Writing to a String cannot fail.
    let _ = write!(page, "\n# TYPE {name} {kind}\n");
}

fn sample(page: &mut String, name: &str, labels: &[(&'static str, String)], last: Option<(&str, String)>, number: f64) {
    page.push_str(name);
    let all = labels.iter().map(|(name, value)| (*name, value.as_str()));
    let all = all.chain(last.as_ref().map(|(name, value)| (*name, value.as_str())));
    let mut open = '{';
    for (name, value) in all {
        page.push(open);
        page.push_str(name);
        page.push_str("=\"");
        escape(page, value, true);
        page.push('"');
        open = ',';
    }
    page.push_str(if open == ',' { "} " } else { " " });
    write_number(page, number);
    page.push('\n');
}

/// Label values escape the quote as well; help texts do not.
fn escape(page: &mut String, text: &str, quoted: bool) {
    for c in text.chars() {
        match c {
            '\\' => page.push_str("\\\\"),
            '\n' => page.push_str("\\n"),
            '"' if quoted => page.push_str("\\\""),
            c => page.push(c),
        }
    }
}

/// Rust's shortest form, without the exponents it never writes; the three values that have names get Prometheus's.
fn write_number(page: &mut String, number: f64) {
    let _ = match number {
        n if n.is_nan() => write!(page, "NaN"),
        n if n.is_infinite() => write!(page, "{}Inf", if n > 0.0 { '+' } else { '-' }),
        n => write!(page, "{n}"),
    };
}

#[cfg(test)]
mod tests {
    use super::super::Registry;
    use std::collections::{HashMap, HashSet};
    use std::time::Duration;

    /// Checks the rules of the format on a page: one HELP and TYPE for each family, before its samples, which stand
    /// together; no sample twice; legal names; readable numbers.
    fn check(page: &str) -> Result<(), String> {
        let mut kinds: HashMap<&str, &str> = HashMap::new();
        let mut helps = HashSet::new();
        let mut seen = HashSet::new();
        let mut current = "";
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, _) = rest.split_once(' ').ok_or(format!("help without text: {line}"))?;
                if !helps.insert(name) {
                    return Err(format!("two HELP for {name}"));
                }
                current = name;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or(format!("no type: {line}"))?;
                if kinds.insert(name, kind).is_some() || name != current {
                    return Err(format!("misplaced TYPE for {name}"));
                }
            } else {
                let end = line.rfind(' ').ok_or(format!("no value: {line}"))?;
                let (series, number) = (&line[..end], &line[end + 1..]);
                let name = series.split('{').next().unwrap_or_default();
                let family = match kinds.get(current) {
                    Some(&"summary") => name.trim_end_matches("_sum").trim_end_matches("_count"),
                    Some(_) => name,
                    None => return Err(format!("no TYPE before {line}")),
                };
                if family != current || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                    return Err(format!("{name} stands under {current}"));
                }
                if !number.parse::<f64>().is_ok_and(|n| !number.contains('e') || n == 0.0) {
                    return Err(format!("number {number}"));
                }
                if !seen.insert(series) {
                    return Err(format!("{series} occurs twice"));
                }
            }
        }
        if page.is_empty() || page.ends_with('\n') { Ok(()) } else { Err("no newline at the end".to_owned()) }
    }

    #[test]
    fn the_checker_finds_what_it_is_for() {
        let good = "# HELP a A.\n# TYPE a gauge\na{x=\"1\"} 1\n";
        assert_eq!(check(good), Ok(()));
        for bad in [
            format!("{good}{good}"),
            format!("{good}a{{x=\"1\"}} 2\n"),
            "a 1\n".to_owned(),
            "# HELP a A.\n# TYPE a gauge\nb 1\n".to_owned(),
            "# HELP a A.\n# TYPE a gauge\na one\n".to_owned(),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_full_page_keeps_the_rules_of_the_format() {
        let registry = Registry::default();
        assert_eq!(check(&registry.expose()), Ok(()));
        registry.counter("larder_a_total", "A.", &[]).inc();
        registry.sampled_gauge("larder_nan", "N.", &[], Box::new(|| f64::NAN));
        registry.sampled_gauge("larder_inf", "I.", &[], Box::new(|| f64::INFINITY));
        registry.distribution("larder_group_size", "G.", &[]).record(5);
        registry.distribution("larder_sync_duration_seconds", "S.", &[]).record_duration(Duration::from_millis(8));
        for route in ["/a", "/b"] {
            registry.request(route, "GET", 200, None, Duration::from_micros(120), true);
        }
        let page = registry.expose();
        assert_eq!(check(&page), Ok(()), "{page}");
        for line in [
            "larder_a_total 1",
            "larder_nan NaN",
            "larder_inf +Inf",
            "larder_group_size{quantile=\"0.999\"} 5",
            "larder_group_size_last_minute{percentile=\"99.9\"} 5",
            "larder_group_size_last_minute_observations 1",
            "larder_sync_duration_seconds_sum 0.008",
            "larder_sync_duration_min_seconds 0.008",
            "larder_sync_duration_last_minute_max_seconds 0.008",
            "larder_http_request_duration_last_minute_seconds{method=\"GET\",route=\"/a\",class=\"2xx\",percentile=\"50\"} 0.00012",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing from\n{page}");
        }
    }

    #[test]
    fn label_values_and_help_are_escaped() {
        let registry = Registry::default();
        registry.gauge_with("larder_g", "Back\\slash and\nline, \"quoted\".", vec![("v", "a\"b\\c\nd".to_owned())]);
        assert_eq!(
            registry.expose(),
            "# HELP larder_g Back\\\\slash and\\nline, \"quoted\".\n# TYPE larder_g gauge\nlarder_g{v=\"a\\\"b\\\\c\\nd\"} 0\n"
        );
    }
}
