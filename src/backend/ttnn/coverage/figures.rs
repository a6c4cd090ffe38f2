//! The figures of a report in words, for the terminal and for the page.

use super::{Coverage, Direction, Stage, Transfer, Work};

/// `3.31 GB`: three digits and a prefix.
fn si(value: f64, unit: &str) -> String {
    let (scaled, prefix) = match value.abs() {
        size if size >= 1e12 => (value / 1e12, "T"),
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e3 => (value / 1e3, "k"),
        _ => return format!("{value} {unit}"),
    };
    let digits = if scaled >= 100.0 {
        0
    } else if scaled >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$} {prefix}{unit}")
}

fn bytes(value: u64) -> String {
    si(value as f64, "B")
}

fn flops(value: u64) -> String {
    si(value as f64, "FLOP")
}

pub fn ms(value: f64) -> String {
    format!("{value:.2} ms")
}

/// A share in percent, cut off and not rounded: 100 % is everything.
fn percent(share: f64, digits: usize) -> String {
    let scale = 10_f64.powi(digits as i32);
    format!("{:.digits$} %", (100.0 * scale * share).floor() / scale)
}

/// `part` of `part + rest`; an empty whole is nobody's.
fn share(part: u64, rest: u64) -> String {
    if part + rest > 0 { percent(part as f64 / (part + rest) as f64, 1) } else { "–".to_owned() }
}

pub fn title(coverage: &Coverage) -> String {
    let workload = &coverage.workload;
    let plural = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    format!(
        "{}, {}, {}{} on {}, {}x{} cores",
        plural(workload.cameras, "camera"),
        plural(workload.tokens, "token"),
        plural(workload.steps, "step"),
        if workload.guided { ", guided" } else { "" },
        coverage.device.name,
        coverage.device.grid.x,
        coverage.device.grid.y,
    )
}

/// The whole chunk, a figure in each line.
fn summary(coverage: &Coverage) -> Vec<(String, String)> {
    let total = &coverage.total;
    let crossing = |direction| {
        let (batches, tensors, size) = coverage.crossings(direction);
        format!("{batches}, {tensors} tensor{}, {}", if tensors == 1 { "" } else { "s" }, bytes(size))
    };
    let mut lines = vec![
        ("Launches".to_owned(), total.launches.to_string()),
        ("Arithmetic".to_owned(), flops(total.flops)),
        ("Arithmetic on the card".to_owned(), percent(coverage.flops_on_card(), 4)),
        ("Weights streamed".to_owned(), bytes(total.weight_bytes)),
        ("DRAM read and written".to_owned(), bytes(total.dram_bytes)),
        ("Batches up".to_owned(), crossing(Direction::Up)),
        ("Batches down".to_owned(), crossing(Direction::Down)),
    ];
    lines.extend(total.rooflines.iter().map(|roofline| (format!("Roofline, {} cores", roofline.cores), ms(roofline.ms))));
    lines.extend([
        ("Products as configured".to_owned(), ms(total.products_ms)),
        ("DRAM taken, at most".to_owned(), of(coverage.high_water.dram_bytes, coverage.device.dram_bytes)),
        ("L1 of a core taken, at most".to_owned(), of(coverage.high_water.l1_bytes, coverage.device.l1_bytes as u64)),
        ("Once: uploads".to_owned(), format!("{} tensors, {}", coverage.setup.uploads, bytes(coverage.setup.bytes))),
        ("Once: launches".to_owned(), coverage.setup.launches.to_string()),
    ]);
    lines
}

fn of(part: u64, whole: u64) -> String {
    format!("{} of {}", bytes(part), bytes(whole))
}

/// A table: its columns, and the cells of each row.
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Table {
    Table { columns: columns.iter().map(|&column| column.to_owned()).collect(), rows: rows.collect() }
}

/// The figures of whole chunks, a column for each report.
pub fn side_by_side(coverages: &[Coverage]) -> Table {
    let mut table = Table { columns: vec!["One chunk".to_owned()], rows: Vec::new() };
    for coverage in coverages {
        table.columns.push(coverage.name.clone());
        for (line, (label, value)) in summary(coverage).into_iter().enumerate() {
            match table.rows.get_mut(line) {
                Some(row) => row.push(value),
                None => table.rows.push(vec![label, value]),
            }
        }
    }
    table
}

pub fn modules(coverage: &Coverage) -> Table {
    let columns = [
        "Module",
        "Ops, card",
        "host",
        "on card",
        "Arithmetic, card",
        "host",
        "on card",
        "Bytes, card",
        "host",
        "on card",
        "Host, once",
    ];
    let row = |name: &str, (card, host, once): (Work, Work, Work)| {
        let once = if once == Work::default() { "–".to_owned() } else { format!("{}, {}", once.ops, bytes(once.bytes)) };
        vec![
            name.to_owned(),
            card.ops.to_string(),
            host.ops.to_string(),
            share(card.ops as u64, host.ops as u64),
            flops(card.flops),
            flops(host.flops),
            share(card.flops, host.flops),
            bytes(card.bytes),
            bytes(host.bytes),
            share(card.bytes, host.bytes),
            once,
        ]
    };
    let all = coverage.modules.iter().fold((Work::default(), Work::default(), Work::default()), |all, share| {
        (all.0 + share.card, all.1 + share.host, all.2 + share.once)
    });
    let each = coverage.modules.iter().map(|share| row(share.module.name(), (share.card, share.host, share.once)));
    table(&columns, each.chain([row("all", all)]))
}

pub fn stages(coverage: &Coverage) -> Table {
    let mut columns: Vec<String> = ["Stage", "Launches", "Views", "Arithmetic", "Weights", "DRAM"].map(str::to_owned).to_vec();
    columns.extend(coverage.total.rooflines.iter().map(|roofline| format!("Roofline {}", roofline.cores)));
    columns.push("Products".to_owned());
    let row = |stage: &Stage| {
        let mut cells = vec![
            stage.name.clone(),
            stage.launches.to_string(),
            stage.views.to_string(),
            flops(stage.flops),
            bytes(stage.weight_bytes),
            bytes(stage.dram_bytes),
        ];
        cells.extend(stage.rooflines.iter().map(|roofline| ms(roofline.ms)));
        cells.push(ms(stage.products_ms));
        cells
    };
    Table { columns, rows: coverage.stages.iter().chain([&coverage.total]).map(row).collect() }
}

pub fn transfers(coverage: &Coverage) -> Table {
    let rows = coverage.transfers.iter().enumerate().flat_map(|(number, Transfer { direction, tensors })| {
        let direction = match direction {
            Direction::Up => "up",
            Direction::Down => "down",
        };
        tensors.iter().map(move |crossing| {
            vec![
                format!("{} {direction}", number + 1),
                crossing.name.clone(),
                format!("{:?}", crossing.spec.shape),
                format!("{:?}", crossing.spec.dtype).to_lowercase(),
                bytes(crossing.bytes),
            ]
        })
    });
    table(&["Batch", "Tensor", "Shape", "Format", "Size"], rows)
}

pub fn launches(coverage: &Coverage) -> Table {
    table(&["Op", "Launches"], coverage.launches.iter().map(|(name, count)| vec![(*name).to_owned(), count.to_string()]))
}
