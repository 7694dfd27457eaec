//! The report: one HTML page with everything in it, and the charts as files beside it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::charts::{Chart, charts};
use crate::findings::{Entry, Findings};
use crate::goals::{self, Goal, goals};
use crate::support::crew::Failure;
use crate::table::{self, better, times};
use crate::way::Way;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;\
padding:0 1em;color:#222}table{border-collapse:collapse;margin:1em 0;font-size:13px}\
th,td{padding:3px 9px;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}tr.own td{font-weight:600}\
figure{margin:1.5em 0}figcaption{color:#555}.met{color:#06702c}.not{color:#a11}\
.wrap{overflow-x:auto}svg{max-width:100%;height:auto}dt{font-weight:600}";

/// Writes `index.html` and the charts into `folder`.
pub fn write(found: &Findings, folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    let charts = charts(found);
    for chart in &charts {
        fs::write(folder.join(chart.file), &chart.svg)?;
    }
    fs::write(folder.join("index.html"), html(found, &charts))?;
    fs::write(folder.join("tables.md"), markdown(found))?;
    Ok(())
}

fn html(found: &Findings, charts: &[Chart]) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8><title>corecast beside its peers</title>\
         <meta name=viewport content='width=device-width'><style>{STYLE}</style>\
         <h1>corecast beside its peers</h1><p>{}</p>\
         <p>Real forked processes; every message checked by sender, sequence and content; rounds of \
         all ways take turns. Figures are lowest / middle / highest of the rounds; ratios are taken \
         round by round and are above 1 where corecast is better.</p>",
        escape(&head(found))
    );
    out += "<h2>Goals</h2>";
    out += &goal_table(&goals(found));
    out += "<h2>Pictures</h2>";
    for chart in charts {
        let _ = write!(
            out,
            "<figure>{}<figcaption>{}</figcaption></figure>",
            chart.svg,
            escape(&chart.title)
        );
    }
    out += "<h2>Tables</h2>";
    for entry in &found.entries {
        out += &entry_table(entry);
    }
    out += "<h2>How each is set up</h2><dl>";
    for way in Way::all() {
        let setting = escape(way.setting());
        let _ = write!(out, "<dt>{}</dt><dd>{setting}</dd>", escape(way.name()));
    }
    out + "</dl></html>\n"
}

/// Machine, kernel, commit.
pub fn head(found: &Findings) -> String {
    let seen = &found.machine;
    format!(
        "{} × {}, {} GiB, {}, commit {}",
        seen.cpus, seen.cpu, seen.memory_gib, seen.kernel, seen.commit
    )
}

fn goal_table(goals: &[Goal]) -> String {
    let mut out = "<table><tr><th>work<th>what<th>goal<th>figure<th>".to_owned();
    for goal in goals {
        let class = if goal.met() == Some(true) {
            "met"
        } else {
            "not"
        };
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td class={class}>{}",
            escape(goal.work),
            escape(&goal.what),
            goals::bound(goal),
            goals::figure(goal),
            goals::verdict(goal)
        );
    }
    out + "</table>"
}

fn entry_table(entry: &Entry) -> String {
    let measures = table::measures_of(entry);
    let own = entry.own_ways();
    let mut out = format!(
        "<h3>{}: {}</h3><div class=wrap><table><tr><th>",
        escape(&entry.work),
        escape(&entry.case)
    );
    for measure in &measures {
        let _ = write!(out, "<th>{}", escape(measure.title));
    }
    for way in &own {
        let _ = write!(out, "<th>{} is", escape(way.name()));
    }
    for row in &entry.rows {
        let class = if row.way.is_own() { "own" } else { "peer" };
        let _ = write!(out, "<tr class={class}><td>{}", escape(row.way.name()));
        for measure in &measures {
            let text = row
                .spread(measure.figure)
                .map_or("–".to_owned(), table::spread);
            let _ = write!(out, "<td>{text}");
        }
        for way in &own {
            let ratio = measures
                .first()
                .filter(|_| *way != row.way)
                .and_then(|first| {
                    Some(better(
                        entry.ratio(*way, row.way, first.figure)?,
                        first.more,
                    ))
                });
            let _ = write!(out, "<td>{}", ratio.map_or(String::new(), times));
        }
        if let Some(failure) = &row.failure {
            let _ = write!(out, "<tr><td><td colspan=9 class=not>{}", escape(failure));
        }
    }
    out + "</table></div>"
}

/// Goals and medians, for a document.
fn markdown(found: &Findings) -> String {
    let mut out = format!(
        "{}\n\n| work | what | goal | figure | |\n|---|---|---|---|---|\n",
        head(found)
    );
    for goal in goals(found) {
        let (bound, figure) = (goals::bound(&goal), goals::figure(&goal));
        let verdict = goals::verdict(&goal);
        let _ = writeln!(
            out,
            "| {} | {} | {bound} | {figure} | {verdict} |",
            goal.work, goal.what
        );
    }
    for work in ["throughput", "round trip", "paced", "growth"] {
        for measure in table::measures(work) {
            out += &medians(found, work, measure.figure, measure.title);
        }
    }
    out
}

/// One table: ways down, cases across.
fn medians(found: &Findings, work: &str, figure: &str, title: &str) -> String {
    let has = |entry: &&Entry| entry.rows.iter().any(|row| row.median(figure).is_some());
    let entries: Vec<&Entry> = found.of(work).filter(has).collect();
    if entries.is_empty() {
        return String::new();
    }
    let mut out = format!("\n{work}: {title}\n\n| |");
    entries
        .iter()
        .for_each(|entry| out += &format!(" {} |", entry.case));
    out += "\n|---|";
    entries.iter().for_each(|_| out += "---|");
    out.push('\n');
    for &way in Way::all() {
        let cell = |entry: &&Entry| entry.median(way, figure);
        if entries.iter().any(|entry| cell(entry).is_some()) {
            let _ = write!(out, "| {} |", way.name());
            for entry in &entries {
                let text = cell(entry).map_or("–".to_owned(), table::number);
                let _ = write!(out, " {text} |");
            }
            out.push('\n');
        }
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
