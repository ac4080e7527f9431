//! What a run has found, as lines of text or as one JSON object with the same names.

use std::fmt::{self, Write};

use super::histogram::Histogram;

/// Shares that are reported of every histogram, and their names.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999)];

/// The names and values of a run, in the order in which they are shown.
#[derive(Default)]
pub struct Report {
    fields: Vec<(&'static str, Value)>,
    /// Every message came once, in order, and was confirmed if confirms were asked for.
    pub sound: bool,
}

enum Value {
    Text(String),
    Truth(bool),
    Count(u64),
    /// With three digits behind the point.
    Number(f64),
    /// With six: a few messages take less than a millisecond.
    Seconds(f64),
    Group(Vec<(&'static str, Value)>),
}

impl Report {
    pub fn text(&mut self, name: &'static str, text: impl fmt::Display) {
        self.fields.push((name, Value::Text(text.to_string())));
    }

    pub fn truth(&mut self, name: &'static str, truth: bool) {
        self.fields.push((name, Value::Truth(truth)));
    }

    pub fn count(&mut self, name: &'static str, count: u64) {
        self.fields.push((name, Value::Count(count)));
    }

    pub fn number(&mut self, name: &'static str, number: f64) {
        self.fields.push((name, Value::Number(number)));
    }

    pub fn seconds(&mut self, name: &'static str, seconds: f64) {
        self.fields.push((name, Value::Seconds(seconds)));
    }

    /// A histogram in microseconds; nothing if it is empty.
    pub fn times(&mut self, name: &'static str, times: &Histogram) {
        if times.count() == 0 {
            return;
        }
        let micros = |nanos: u64| Value::Number(nanos as f64 / 1e3);
        let mut group = vec![("samples", Value::Count(times.count()))];
        group.extend(QUANTILES.iter().map(|(name, q)| (*name, micros(times.quantile(*q)))));
        group.push(("max", micros(times.max())));
        self.fields.push((name, Value::Group(group)));
    }

    pub fn to_json(&self) -> String {
        let mut out = String::new();
        json_object(&mut out, &self.fields);
        out.push('\n');
        out
    }

    pub fn to_text(&self) -> String {
        let width = self.fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut out = String::new();
        for (name, value) in &self.fields {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:width$}  {}", Shown(value));
        }
        out
    }
}

/// A value as people read it.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Text(text) => formatter.write_str(text),
            Value::Truth(truth) => write!(formatter, "{truth}"),
            Value::Count(count) => write!(formatter, "{count}"),
            Value::Number(number) => write!(formatter, "{number:.3}"),
            Value::Seconds(seconds) => write!(formatter, "{seconds:.6}"),
            Value::Group(group) => {
                for (at, (name, value)) in group.iter().enumerate() {
                    let gap = if at == 0 { "" } else { "  " };
                    write!(formatter, "{gap}{name} {}", Shown(value))?;
                }
                Ok(())
            }
        }
    }
}

fn json_object(out: &mut String, fields: &[(&'static str, Value)]) {
    for (at, (name, value)) in fields.iter().enumerate() {
        out.push(if at == 0 { '{' } else { ',' });
        json_string(out, name);
        out.push(':');
        match value {
            Value::Text(text) => json_string(out, text),
            Value::Number(number) if !number.is_finite() => out.push_str("null"),
            Value::Group(group) => json_object(out, group),
            // Writing to a String cannot fail.
            other => drop(write!(out, "{}", Shown(other))),
        }
    }
    out.push_str(if fields.is_empty() { "{}" } else { "}" });
}

fn json_string(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => drop(write!(out, "\\u{:04x}", control as u32)),
            letter => out.push(letter),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.text("name", "a \"b\" \\ \n ü");
        report.count("count", 7);
        report.number("number", 1.25);
        report.number("nothing", f64::NAN);
        report.truth("sound", true);
        let mut times = Histogram::default();
        times.record(1_000);
        report.times("times_us", &times);
        report.times("absent_us", &Histogram::default());
        report
    }

    #[test]
    fn json_is_one_object_on_one_line() {
        let expected = concat!(
            r#"{"name":"a \"b\" \\ \u000a ü","count":7,"number":1.250,"nothing":null,"sound":true,"#,
            r#""times_us":{"samples":1,"p50":1.000,"p90":1.000,"p99":1.000,"p99_9":1.000,"max":1.000}}"#,
            "\n"
        );
        assert_eq!(report().to_json(), expected);
        assert_eq!(Report::default().to_json(), "{}\n");
    }

    #[test]
    fn text_has_a_line_for_each_value() {
        let mut report = Report::default();
        report.count("published", 7);
        report.number("per_s", 1.25);
        report.seconds("seconds", 0.000_25);
        assert_eq!(report.to_text(), "published  7\nper_s      1.250\nseconds    0.000250\n");
    }
}
