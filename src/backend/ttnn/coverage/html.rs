//! The report as one page: no script, no network, readable in light and dark, and reachable by keyboard.

use std::fmt::Write;

use super::{
    Coverage,
    figures::{self, Table},
};

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
        ("per-stage", "Stages", figures::stages as fn(&Coverage) -> Table),
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
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>pi0_tt: coverage</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#summary\">Skip to the figures</a>\n\
         <main>\n<h1>π0 on the card</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

const METHOD: &str = "<p>A chunk is everything from its first input to its downloaded actions. Products count two operations for each \
    multiply and add, in whole tiles as the card computes them; other ops one for each arithmetic step on a value. Bytes are operands \
    and outputs once each, padding included. A roofline is the slower of arithmetic and of DRAM, stage by stage: a tile product takes \
    16 cycles of a core at 1 GHz with LoFi, 32 with HiFi2 and 48 with HiFi3, and DRAM gives 288 GB/s. Products as configured are the \
    sum over the products, each the slower of its busiest core's arithmetic and of reading its weight. Memory is what tensors take; \
    circular buffers come on top in L1.</p>\n";

fn section(body: &mut String, id: &str, title: &str, content: &str) {
    // Writing to a string does not fail.
    let _ = write!(
        body,
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{content}</section>\n"
    );
}

fn paragraph(body: &mut String, text: &str) {
    let _ = writeln!(body, "<p>{}</p>", escape(text));
}

/// A table that scrolls by itself where it is wider than the page, by keyboard too.
fn table(title: &str, caption: Option<&str>, table: &Table) -> String {
    let caption = caption.map(escape);
    let label = caption.as_ref().map_or(title.to_owned(), |caption| format!("{title}: {caption}"));
    let mut html = format!("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{label}\">\n<table>\n");
    if let Some(caption) = caption {
        let _ = writeln!(html, "<caption>{caption}</caption>");
    }
    html.push_str("<thead><tr>");
    for column in &table.columns {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escape(column));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        html.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            let _ = match column {
                0 => write!(html, "<th scope=\"row\">{cell}</th>"),
                _ => write!(html, "<td>{cell}</td>"),
            };
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table>\n</div>\n");
    html
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
