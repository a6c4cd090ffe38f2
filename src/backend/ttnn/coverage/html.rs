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
    section(&mut body, "summary", "One chunk", &table("One chunk", &figures::side_by_side(coverages)));
    section(&mut body, "stages", "Least time of each stage", &bars(coverages));
    for (id, title, make) in [
        ("per-stage", "Stages", figures::stages as fn(&Coverage) -> Table),
        ("modules", "What runs where", figures::modules),
        ("transfers", "Host to card and back", figures::transfers),
        ("launches", "Launches by op", figures::launches),
    ] {
        let tables: String = coverages
            .iter()
            .map(|coverage| {
                let caption = if coverages.len() > 1 { coverage.name.as_str() } else { title };
                table(caption, &make(coverage))
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
fn table(caption: &str, table: &Table) -> String {
    let caption = escape(caption);
    let mut html = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\">\n<table>\n<caption>{caption}</caption>\n<thead><tr>"
    );
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

/// For each stage: arithmetic and DRAM at full speed on every number of cores, and the products as they are configured.
fn bars(coverages: &[Coverage]) -> String {
    const ROW: usize = 22;
    const LABELS: usize = 250;
    const WIDTH: usize = 620;
    let bars: Vec<(String, &str, f64)> = coverages
        .iter()
        .flat_map(|coverage| {
            let of = if coverages.len() > 1 { format!("{}, ", coverage.name) } else { String::new() };
            coverage.stages.iter().flat_map(move |stage| {
                let label = move |what: &str, of: &str| format!("{of}{}: {what}", stage.name);
                let cores = stage.rooflines.iter().map({
                    let of = of.clone();
                    move |roofline| (label(&format!("arithmetic, {} cores", roofline.cores), &of), "compute", roofline.compute_ms)
                });
                let dram = stage.rooflines.first().map(|roofline| (label("DRAM", &of), "dram", roofline.dram_ms));
                let products = (label("products as configured", &of), "products", stage.products_ms);
                cores.chain(dram).chain([products]).collect::<Vec<_>>()
            })
        })
        .collect();
    let longest = bars.iter().map(|&(.., ms)| ms).fold(f64::MIN_POSITIVE, f64::max);
    let height = bars.len() * ROW;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {} {height}\" role=\"img\" aria-label=\"Times of each stage; the table below has the figures\">\n",
        LABELS + WIDTH + 90
    );
    for (index, (label, class, ms)) in bars.iter().enumerate() {
        let (top, length) = (index * ROW, ms / longest * WIDTH as f64);
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect class=\"{class}\" x=\"{LABELS}\" y=\"{}\" width=\"{length:.1}\" \
             height=\"{}\"/><text x=\"{:.1}\" y=\"{}\">{}</text>\n",
            LABELS - 8,
            top + 15,
            escape(label),
            top + 3,
            ROW - 6,
            LABELS as f64 + length + 6.0,
            top + 15,
            figures::ms(*ms),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
