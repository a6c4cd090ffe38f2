//! The report as one page: no script, no network, readable in light and dark, and reachable by keyboard.

use std::fmt::Write;

use super::{Coverage, figures};
use crate::html::{Page, Row, Table, escape, section};

const STYLE: &str = include_str!("page.css");

/// The page of one report, or of two side by side.
pub fn page(coverages: &[Coverage]) -> String {
    let mut body = String::new();
    for coverage in coverages {
        paragraph(&mut body, &format!("{}: {}", coverage.name, figures::title(coverage)));
    }
    section(&mut body, "summary", "One chunk", &table("One chunk", None, &figures::side_by_side(coverages)));
    section(&mut body, "stages", "Least time of each stage", &chart(&stage_bars(coverages)));
    for (id, title, make) in [
        ("per-stage", "Stages", figures::stages as fn(&Coverage) -> figures::Table),
        ("modules", "What runs where", figures::modules),
        ("transfers", "Host to card and back", figures::transfers),
        ("launches", "Launches by op", figures::launches),
    ] {
        let tables: String = coverages
            .iter()
            .map(|coverage| {
                let name = Some(coverage.name.as_str()).filter(|_| coverages.len() > 1);
                table(title, name, &make(coverage))
            })
            .collect();
        section(&mut body, id, title, &tables);
    }
    section(&mut body, "method", "How this is counted", METHOD);
    let main = format!("<h1>π0 on the card</h1>\n{body}");
    let skip = ("summary", "Skip to the figures");
    Page { title: "pi0_tt: coverage", style: STYLE, skip, main: &main, script: "" }.render()
}

const METHOD: &str = "<p>A chunk is everything from its first input to its downloaded actions. Products count two operations for each \
    multiply and add, in whole tiles as the card computes them; other ops one for each arithmetic step on a value. Bytes are operands \
    and outputs once each, padding included. A roofline is the slower of arithmetic and of DRAM, stage by stage: a tile product takes \
    16 cycles of a core at 1 GHz with LoFi, 32 with HiFi2 and 48 with HiFi3, and DRAM gives 288 GB/s. Products as configured are the \
    sum over the products, each the slower of its busiest core's arithmetic and of reading its weight. Memory is what tensors take; \
    circular buffers come on top in L1.</p>\n";

fn paragraph(body: &mut String, text: &str) {
    let _ = writeln!(body, "<p>{}</p>", escape(text));
}

/// The figures under a title, and under the plan's name where there are several.
fn table(title: &str, caption: Option<&str>, figures: &figures::Table) -> String {
    let label = caption.map_or(title.to_owned(), |caption| format!("{title}: {caption}"));
    let rows = figures.rows.iter().map(Row::of_text).collect();
    Table { label, caption: caption.map(String::from), columns: figures.columns.clone(), rows }.render()
}

struct Bar {
    label: String,
    class: &'static str,
    ms: f64,
}

/// For each stage: arithmetic on each number of cores and DRAM at full speed, and the products as they are configured.
fn stage_bars(coverages: &[Coverage]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for coverage in coverages {
        for stage in &coverage.stages {
            let mut bar = |what: &str, class, ms| {
                let plan = if coverages.len() > 1 { format!("{}, ", coverage.name) } else { String::new() };
                bars.push(Bar { label: format!("{plan}{}: {what}", stage.name), class, ms });
            };
            for roofline in &stage.rooflines {
                bar(&format!("arithmetic, {} cores", roofline.cores), "compute", roofline.compute_ms);
            }
            // DRAM is as fast for any number of cores.
            if let Some(roofline) = stage.rooflines.first() {
                bar("DRAM", "dram", roofline.dram_ms);
            }
            bar("products as configured", "products", stage.products_ms);
        }
    }
    bars
}

fn chart(bars: &[Bar]) -> String {
    const ROW: usize = 22;
    const LABELS: usize = 250;
    const LONGEST: f64 = 620.0;
    let longest = bars.iter().map(|bar| bar.ms).fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = format!(
        "<svg viewBox=\"0 0 960 {}\" role=\"img\" aria-label=\"Times of each stage, in milliseconds; the table below has them in figures\">\n",
        bars.len() * ROW
    );
    for (index, bar) in bars.iter().enumerate() {
        let (top, width) = (index * ROW + 3, bar.ms / longest * LONGEST);
        let (text, value_at) = (top + 12, LABELS as f64 + width + 6.0);
        let (label, class, value) = (escape(&bar.label), bar.class, figures::ms(bar.ms));
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{label}</text>\
             <rect class=\"{class}\" x=\"{LABELS}\" y=\"{top}\" width=\"{width:.1}\" height=\"16\"/>\
             <text x=\"{value_at:.1}\" y=\"{text}\">{value}</text>",
            LABELS - 8
        );
    }
    svg.push_str("</svg>\n");
    svg
}
