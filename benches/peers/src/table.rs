//! Tables for a terminal.

use std::fmt::Write as _;

use crate::findings::Entry;
use crate::growth;
use crate::paced;
use crate::roundtrip;
use crate::support::figures::Spread;
use crate::throughput;

/// How a figure is shown, and whether more of it is better.
pub struct Measure {
    /// Its name in the findings.
    pub figure: &'static str,
    /// What a heading calls it.
    pub title: &'static str,
    /// Whether more is better.
    pub more: bool,
}

/// What the tables of a group of work show: the figure that is compared, then others.
pub fn measures(work: &str) -> &'static [Measure] {
    const fn of(figure: &'static str, title: &'static str, more: bool) -> Measure {
        Measure {
            figure,
            title,
            more,
        }
    }
    match work {
        "throughput" => {
            const {
                &[
                    of(throughput::DELIVERIES, "deliveries/s", true),
                    of(throughput::CPU, "CPU ns/delivery", false),
                ]
            }
        }
        "round trip" => {
            const {
                &[
                    of("p50_us", "p50 us", false),
                    of("p99_us", "p99 us", false),
                    of(roundtrip::CPU, "CPU us", false),
                ]
            }
        }
        "paced" => {
            const {
                &[
                    of(paced::CPU, "CPU s", false),
                    of("p50_us", "p50 us", false),
                    of("p99_us", "p99 us", false),
                    of("p99.9_us", "p99.9 us", false),
                    of(paced::CALLS, "calls/msg", false),
                    of(paced::WAKES, "wakes/msg", false),
                    of(paced::RATE, "messages/s", true),
                ]
            }
        }
        _ => {
            const {
                &[
                    of(throughput::DELIVERIES, "deliveries/s", true),
                    of(throughput::CPU, "CPU ns/delivery", false),
                    of(growth::UNHEARD, "ns unheard", false),
                    of(growth::JOINS, "joins/s", true),
                    of(growth::JOIN_LEAVE, "join+leave/s", true),
                    of(growth::CHANNEL_BYTES, "B/channel", false),
                    of(growth::CORE_BYTES, "B/core", false),
                    of(growth::MESSAGE_BYTES, "B/queued message", false),
                ]
            }
        }
    }
}

/// Those of them that a case has.
pub fn measures_of(entry: &Entry) -> Vec<&'static Measure> {
    let has = |measure: &&Measure| {
        entry
            .rows
            .iter()
            .any(|row| row.spread(measure.figure).is_some())
    };
    measures(&entry.work).iter().filter(has).collect()
}

/// The lines of one case: each way's figures, and how many times better corecast is.
pub fn lines(entry: &Entry) -> String {
    let mut out = format!("{} {}\n", entry.work, entry.case);
    let measures = measures_of(entry);
    let _ = write!(out, "  {:<20}", "");
    for measure in &measures {
        let _ = write!(out, "{:>26}", measure.title);
    }
    let own = entry.own_ways();
    for way in &own {
        let _ = write!(out, "{:>28}", format!("{} is", way.name()));
    }
    out.push('\n');
    for row in &entry.rows {
        let _ = write!(out, "  {:<20}", row.way.name());
        for measure in &measures {
            let text = row.spread(measure.figure).map_or("-".to_owned(), spread);
            let _ = write!(out, "{text:>26}");
        }
        for way in own.iter().filter(|way| **way != row.way) {
            let ratio = measures.first().and_then(|first| {
                let ratio = entry.ratio(*way, row.way, first.figure)?;
                Some(better(ratio, first.more))
            });
            let text = ratio.map_or(String::new(), times);
            let _ = write!(out, "{text:>28}");
        }
        out.push('\n');
        if let Some(failure) = &row.failure {
            let _ = writeln!(out, "  {:<20}FAILED: {failure}", "");
        }
    }
    out
}

/// A ratio that is above 1 where corecast is better.
pub fn better(ratio: Spread, more: bool) -> Spread {
    if more {
        return ratio;
    }
    Spread {
        min: 1.0 / ratio.max,
        median: 1.0 / ratio.median,
        max: 1.0 / ratio.min,
    }
}

/// `2.1 / 2.3 / 2.4 x`: lowest, middle, highest.
pub fn times(ratio: Spread) -> String {
    let digits = |value: f64| match value {
        v if v >= 99.5 => format!("{v:.0}"),
        v if v >= 9.95 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    };
    let Spread { min, median, max } = ratio;
    format!("{} / {} / {} x", digits(min), digits(median), digits(max))
}

/// Lowest, middle and highest of a figure.
pub fn spread(values: Spread) -> String {
    format!(
        "{} / {} / {}",
        number(values.min),
        number(values.median),
        number(values.max)
    )
}

/// A number with three digits or so, and a unit prefix.
pub fn number(value: f64) -> String {
    let (scaled, prefix) = match value.abs() {
        v if v >= 0.9995e9 => (value / 1e9, "G"),
        v if v >= 0.9995e6 => (value / 1e6, "M"),
        v if v >= 0.9995e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = match scaled.abs() {
        v if v >= 99.95 => format!("{scaled:.0}"),
        v if v >= 9.995 => format!("{scaled:.1}"),
        v if v >= 0.0995 || v == 0.0 => format!("{scaled:.2}"),
        _ => format!("{scaled:.4}"),
    };
    text + prefix
}
