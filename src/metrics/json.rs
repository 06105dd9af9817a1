//! The figures as JSON, for the status page. The names are those of the text page; the form is ours.

use serde_json::{Map, Number, Value, json};

use super::exposition::scale;
use super::family::{FamilyView, Figure, Kind};
use super::window::Stats;

/// The members for the quantiles, in the order of `window::QUANTILES`.
const QUANTILE_NAMES: [&str; 5] = ["p50", "p90", "p95", "p99", "p99.9"];

/// Renders families in their order.
pub(super) fn render(families: &[FamilyView]) -> Value {
    let members = families.iter().map(|family| {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Distribution => "distribution",
        };
        let series: Vec<Value> =
            family.series.iter().map(|(labels, figure)| series(family.name, labels, figure)).collect();
        (family.name.to_owned(), json!({ "kind": kind, "help": family.help, "series": series }))
    });
    Value::Object(members.collect())
}

fn series(name: &str, labels: &[(&'static str, String)], figure: &Figure) -> Value {
    let labels: Map<String, Value> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str()))).collect();
    match figure {
        Figure::Number(value) => json!({ "labels": labels, "value": number(*value) }),
        Figure::Distribution { total, last_minute } => json!({
            "labels": labels,
            "since_start": stats(total, scale(name)),
            "last_minute": stats(last_minute, scale(name)),
        }),
    }
}

/// All members are always there; those that have no value without observations are null then.
fn stats(stats: &Stats, per: f64) -> Value {
    let known = |value: u64| if stats.count == 0 { Value::Null } else { number(value as f64 / per) };
    let mut object = Map::new();
    object.insert("count".to_owned(), Value::from(stats.count));
    object.insert("sum".to_owned(), number(stats.sum as f64 / per));
    object.insert("min".to_owned(), known(stats.min));
    object.insert("max".to_owned(), known(stats.max));
    for (name, value) in QUANTILE_NAMES.iter().zip(stats.quantiles) {
        object.insert((*name).to_owned(), known(value));
    }
    Value::Object(object)
}

/// Whole numbers without a fraction, which is how readers expect counts; what JSON has no number for is null.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && (0.0..9e15).contains(&value) {
        return Value::from(value as u64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::super::Registry;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn the_json_form_has_the_same_figures() {
        let registry = Registry::default();
        registry.counter("larder_a_total", "A.", &[("x", "y")]).add(3);
        registry.sampled_gauge("larder_nan", "N.", &[], Box::new(|| f64::NAN));
        registry.distribution("larder_wait_seconds", "W.", &[]);
        registry.distribution("larder_took_seconds", "T.", &[]).record_duration(Duration::from_millis(250));
        let value = registry.to_json();
        assert_eq!(
            value["larder_a_total"],
            json!({ "kind": "counter", "help": "A.", "series": [{ "labels": { "x": "y" }, "value": 3 }] })
        );
        assert!(value["larder_nan"]["series"][0]["value"].is_null());
        let empty = &value["larder_wait_seconds"]["series"][0]["since_start"];
        assert_eq!((&empty["count"], &empty["p99.9"]), (&json!(0), &json!(null)));
        let took = &value["larder_took_seconds"]["series"][0]["last_minute"];
        assert_eq!((&took["count"], &took["max"], &took["p50"]), (&json!(1), &json!(0.25), &json!(0.25)));
    }
}
