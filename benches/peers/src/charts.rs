//! Charts as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::findings::{Entry, Findings};
use crate::goals::deducted;
use crate::latencies;
use crate::throughput::{CPU, DELIVERIES};
use crate::way::Way;
use crate::{growth, table};

/// A picture with the name of its file.
pub struct Chart {
    /// File name.
    pub file: &'static str,
    /// What it shows, in one sentence.
    pub title: String,
    /// The picture.
    pub svg: String,
}

const SIZE: (u32, u32) = (860, 460);
const INK: RGBColor = RGBColor(40, 40, 48);
const GRID: RGBColor = RGBColor(225, 225, 230);

/// A line with its points; `x` are positions on an axis of categories.
struct Line {
    way: Way,
    label: String,
    points: Vec<(f64, f64)>,
}

/// The charts for which `found` has figures.
pub fn charts(found: &Findings) -> Vec<Chart> {
    let charts = [
        throughput(found, "16 B", "throughput-16.svg"),
        throughput(found, "1 KiB", "throughput-1k.svg"),
        throughput(found, "64 KiB", "throughput-64k.svg"),
        quantiles(
            found,
            "round trip",
            crate::roundtrip::ONE_CPU,
            "roundtrip-one-cpu.svg",
        ),
        quantiles(
            found,
            "round trip",
            crate::roundtrip::APART,
            "roundtrip-apart.svg",
        ),
        quantiles(found, "paced", "bursts of 50", "latency-bursts.svg"),
        quantiles(found, "paced", "single", "latency-single.svg"),
        fixed_rate(found),
        subscribers(found),
        channels(found),
    ];
    charts.into_iter().flatten().collect()
}

fn throughput(found: &Findings, size: &str, file: &'static str) -> Option<Chart> {
    let wanted =
        |entry: &&Entry| entry.case.starts_with("1→") && entry.case.ends_with(&format!(" {size}"));
    let mut entries: Vec<&Entry> = found.of("throughput").filter(wanted).collect();
    entries.sort_by(|one, two| one.x.unwrap_or(0.0).total_cmp(&two.x.unwrap_or(0.0)));
    let names = entries
        .iter()
        .map(|entry| entry.case.replace(&format!(" {size}"), ""));
    let axis: Vec<String> = names.collect();
    let lines = lines(&entries, DELIVERIES);
    Some(Chart {
        file,
        title: format!("{size} bodies: deliveries per second against fan-out"),
        svg: draw(&lines, &axis, "deliveries/s")?,
    })
}

/// One line per way, one point per entry.
fn lines(entries: &[&Entry], figure: &str) -> Vec<Line> {
    let line = |&way: &Way| {
        let at = |(at, entry): (usize, &&Entry)| Some((at as f64, entry.median(way, figure)?));
        Line {
            way,
            label: way.name().to_owned(),
            points: entries.iter().enumerate().filter_map(at).collect(),
        }
    };
    let all = Way::all().iter().map(line);
    all.filter(|line: &Line| !line.points.is_empty()).collect()
}

fn quantiles(found: &Findings, work: &str, case: &str, file: &'static str) -> Option<Chart> {
    let entry = found.entry(work, case)?;
    let shown: Vec<f64> = latencies::QUANTILES
        .into_iter()
        .filter(|percent| *percent >= 25.0)
        .collect();
    let line = |&way: &Way| {
        let row = entry.row(way)?;
        let at = |(at, percent): (usize, &f64)| {
            Some((at as f64, row.median(&latencies::name(*percent))?))
        };
        Some(Line {
            way,
            label: way.name().to_owned(),
            points: shown.iter().enumerate().filter_map(at).collect(),
        })
    };
    let lines: Vec<Line> = Way::all().iter().filter_map(line).collect();
    let lines: Vec<Line> = lines
        .into_iter()
        .filter(|line| !line.points.is_empty())
        .collect();
    let axis: Vec<String> = shown.iter().map(|percent| format!("p{percent}")).collect();
    let what = match work {
        "paced" => format!("50,000 messages a second to four, {case}: time from send to receive"),
        _ => format!("Round trip, {case}"),
    };
    Some(Chart {
        file,
        title: format!("{what}, microseconds, by quantile"),
        svg: draw(&lines, &axis, "µs")?,
    })
}

fn subscribers(found: &Findings) -> Option<Chart> {
    let wanted = |entry: &&Entry| entry.case.ends_with("subscribed cores");
    let entries: Vec<&Entry> = found.of("growth").filter(wanted).collect();
    let axis: Vec<String> = entries
        .iter()
        .map(|entry| format!("{}", entry.x.unwrap_or(0.0)))
        .collect();
    Some(Chart {
        file: "growth-cores.svg",
        title: "Processor time per delivery against subscribed cores (16 B, one sender)".to_owned(),
        svg: draw(&lines(&entries, CPU), &axis, "ns per delivery")?,
    })
}

fn channels(found: &Findings) -> Option<Chart> {
    let wanted = |entry: &&Entry| entry.case.ends_with(" channels");
    let entries: Vec<&Entry> = found.of("growth").filter(wanted).collect();
    let axis: Vec<String> = entries
        .iter()
        .map(|entry| table::number(entry.x.unwrap_or(0.0)))
        .collect();
    let mut all = Vec::new();
    for entry_line in lines(&entries, DELIVERIES) {
        let inverse = |(x, y): (f64, f64)| (x, 1e9 / y);
        all.push(Line {
            label: format!("{}: one to one", entry_line.label),
            points: entry_line.points.into_iter().map(inverse).collect(),
            way: entry_line.way,
        });
    }
    for line in lines(&entries, growth::UNHEARD) {
        all.push(Line {
            label: format!("{}: no subscriber", line.label),
            way: Way::CorecastMany,
            points: line.points,
        });
    }
    Some(Chart {
        file: "growth-channels.svg",
        title: "Time per message while so many channels are subscribed to".to_owned(),
        svg: draw(&all, &axis, "ns per message")?,
    })
}

/// Lines over categories, with a logarithmic scale upwards.
fn draw(lines: &[Line], axis: &[String], unit: &str) -> Option<String> {
    let values = || {
        lines
            .iter()
            .flat_map(|line| line.points.iter().map(|point| point.1))
    };
    let (low, high) = (
        values().fold(f64::INFINITY, f64::min) / 1.6,
        values().fold(0.0, f64::max) * 1.6,
    );
    if axis.is_empty() || high <= 0.0 {
        return None;
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).ok()?;
        let (picture, legend) = root.split_horizontally(SIZE.0 - 190);
        let most = (axis.len().max(2) - 1) as f64;
        let mut chart = ChartBuilder::on(&picture)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(70)
            .build_cartesian_2d(-0.1..most + 0.1, (low..high).log_scale())
            .ok()?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(GRID.mix(0.5))
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(("sans-serif", 13, &INK))
            .y_desc(unit)
            .y_label_formatter(&|value| short(*value))
            .x_labels(axis.len())
            .x_label_formatter(&|at| label(axis, *at))
            .draw()
            .ok()?;
        for line in lines {
            let style = stroke(line.way);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))
                .ok()?;
            let dots = line
                .points
                .iter()
                .map(|&point| Circle::new(point, 3, style.color.filled()));
            chart.draw_series(dots).ok()?;
        }
        keys(&legend, lines)?;
        root.present().ok()?;
    }
    Some(svg)
}

/// The name of a category; nothing between two.
fn label(axis: &[String], at: f64) -> String {
    if (at - at.round()).abs() > 0.01 || at < -0.01 {
        return String::new();
    }
    axis.get(at.round() as usize).cloned().unwrap_or_default()
}

fn keys(area: &DrawingArea<SVGBackend, Shift>, lines: &[Line]) -> Option<()> {
    for (number, line) in lines.iter().enumerate() {
        let y = 24 + 22 * number as i32;
        let style = stroke(line.way);
        area.draw(&PathElement::new(vec![(4, y), (28, y)], style))
            .ok()?;
        let font = ("sans-serif", 13).into_font().color(&INK);
        area.draw(&Text::new(line.label.clone(), (34, y - 7), font))
            .ok()?;
    }
    Some(())
}

/// Bars: processor time at a fixed rate, what pacing takes deducted.
fn fixed_rate(found: &Findings) -> Option<Chart> {
    let cases: Vec<&Entry> = found.of("paced").collect();
    let mut bars: Vec<(String, Way, f64)> = Vec::new();
    for entry in &cases {
        for row in entry.rows.iter().filter(|row| row.way != Way::Pacer) {
            if let Some(cpu) = deducted(entry, row.way) {
                bars.push((
                    format!("{}, {}", row.way.name(), entry.case),
                    row.way,
                    cpu.max(0.0),
                ));
            }
        }
    }
    let most = bars.iter().map(|bar| bar.2).fold(0.0, f64::max) * 1.15;
    if bars.is_empty() || most <= 0.0 {
        return None;
    }
    let mut svg = String::new();
    {
        let height = 40 + 24 * bars.len() as u32;
        let root = SVGBackend::with_string(&mut svg, (SIZE.0, height)).into_drawing_area();
        root.fill(&WHITE).ok()?;
        for (number, (name, way, cpu)) in bars.iter().enumerate() {
            let y = 16 + 24 * number as i32;
            let font = ("sans-serif", 13).into_font().color(&INK);
            root.draw(&Text::new(name.clone(), (10, y), font.clone()))
                .ok()?;
            let width = (cpu / most * 520.0) as i32;
            let bar = Rectangle::new([(240, y - 2), (240 + width, y + 14)], color(*way).filled());
            root.draw(&bar).ok()?;
            root.draw(&Text::new(format!("{cpu:.2} s"), (248 + width, y), font))
                .ok()?;
        }
        root.present().ok()?;
    }
    Some(Chart {
        file: "cpu-fixed-rate.svg",
        title:
            "Processor time of all processes at 50,000 messages a second to four receivers, the \
                pacer's own deducted"
                .to_owned(),
        svg,
    })
}

fn stroke(way: Way) -> ShapeStyle {
    color(way).stroke_width(if way.is_own() { 3 } else { 2 })
}

fn color(way: Way) -> RGBColor {
    match way {
        Way::Corecast => RGBColor(0, 90, 200),
        Way::CorecastMany => RGBColor(60, 150, 250),
        Way::CorecastPerSender => RGBColor(0, 50, 110),
        Way::CorecastLingering => RGBColor(0, 140, 200),
        Way::CorecastAssist => RGBColor(90, 60, 200),
        Way::CorecastAssistLingering => RGBColor(150, 110, 240),
        Way::CorecastPolled => RGBColor(0, 150, 170),
        Way::Pacer => RGBColor(160, 160, 160),
        Way::Eventfd => RGBColor(130, 130, 130),
        Way::Wakes => RGBColor(90, 90, 90),
        Way::Relay => RGBColor(70, 70, 70),
        Way::Iceoryx => RGBColor(120, 80, 180),
        Way::IceoryxEvent => RGBColor(175, 130, 220),
        Way::Zeromq => RGBColor(220, 120, 0),
        Way::ZeromqProxy => RGBColor(240, 180, 60),
        Way::Nats => RGBColor(30, 150, 70),
        Way::Redis => RGBColor(205, 35, 45),
    }
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.0}M", v / 1e6),
        v if v >= 1e3 => format!("{:.0}k", v / 1e3),
        v if v >= 1.0 => format!("{v:.0}"),
        v => format!("{v:.2}"),
    }
}
