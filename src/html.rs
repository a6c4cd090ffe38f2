//! What the pages of this package have in common: one look, escaped text, and tables that scroll by themselves. A page stands alone: it
//! loads nothing.

use std::fmt::Write;

const STYLE: &str = include_str!("html.css");

/// One page. Everything but the titles is HTML already.
pub struct Page<'a> {
    /// Plain text, as the window shows it.
    pub title: &'a str,
    /// The page's own rules, after those of all pages.
    pub style: &'a str,
    /// What the skip link jumps to: an id and the link's text.
    pub skip: (&'a str, &'a str),
    pub main: &'a str,
    /// May be empty: a page is complete without its script.
    pub script: &'a str,
}

impl Page<'_> {
    pub fn render(&self) -> String {
        let Self { style, main, script, skip: (target, skip), .. } = self;
        let title = escape(self.title);
        let script = if script.is_empty() { String::new() } else { format!("<script>\n{script}</script>\n") };
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
             <style>\n{STYLE}{style}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#{target}\">{skip}</a>\n\
             <main>\n{main}</main>\n{script}</body>\n</html>\n"
        )
    }
}

/// Text for the inside of an element or of a quoted attribute, in HTML and in XML. Characters that neither may have become replacement
/// characters.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A section with its heading; `content` is HTML.
pub fn section(body: &mut String, id: &str, title: &str, content: &str) {
    // Writing to a string does not fail.
    let _ = write!(
        body,
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{content}</section>\n"
    );
}

/// A table whose first column names its rows.
#[derive(Default)]
pub struct Table {
    /// What it is, for those who do not see it.
    pub label: String,
    pub caption: Option<String>,
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
}

/// A row of a table: its cells are HTML.
#[derive(Default)]
pub struct Row {
    /// Attributes of the row, with a space before each.
    pub attributes: String,
    pub cells: Vec<String>,
}

impl Row {
    /// A row of plain text.
    pub fn of_text<S: AsRef<str>>(cells: impl IntoIterator<Item = S>) -> Self {
        Self { attributes: String::new(), cells: cells.into_iter().map(|cell| escape(cell.as_ref())).collect() }
    }
}

impl Table {
    /// Where it is wider or longer than its place it scrolls by itself, by keyboard too.
    pub fn render(&self) -> String {
        let label = escape(&self.label);
        let mut html = format!("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{label}\">\n<table>\n");
        if let Some(caption) = &self.caption {
            let _ = writeln!(html, "<caption>{}</caption>", escape(caption));
        }
        html.push_str("<thead><tr>");
        for column in &self.columns {
            let _ = write!(html, "<th scope=\"col\">{}</th>", escape(column));
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            let _ = write!(html, "<tr{}>", row.attributes);
            for (column, cell) in row.cells.iter().enumerate() {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_text_ends_neither_its_element_nor_its_attribute() {
        assert_eq!(escape("<b a=\"x\" c='y'>&amp;"), "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;amp;");
        assert_eq!(escape("π\n\t\u{0}\u{1b}\u{85}\u{ffff}"), "π\n\t\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
    }
}
