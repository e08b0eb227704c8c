//! A document as one page, which needs nothing but itself.

use super::document::{Block, Column, Document, Span, Table, Text};

const STYLE: &str = "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:900px;padding:0 1em;color:#222}\
svg{max-width:100%;height:auto;display:block}figure{margin:1em 0}div{overflow-x:auto;margin:1em 0}\
table{border-collapse:collapse;font-size:13px}th,td{padding:.3em .7em;border-bottom:1px solid #ddd;\
text-align:left;vertical-align:top}th{background:#f6f6f4}.n{text-align:right;\
font-variant-numeric:tabular-nums}h2{margin-top:2em;border-bottom:1px solid #ccc}";

/// The whole page.
pub fn render(document: &Document) -> String {
    let title = escape(&document.title);
    let body: String = document.blocks.iter().map(block).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

fn block(block: &Block) -> String {
    let inner = match block {
        Block::Heading(level, words) => element(&format!("h{level}"), &escape(words)),
        Block::Paragraph(words) => element("p", &text(words)),
        Block::List(items) => {
            let items: String = items.iter().map(|item| element("li", &text(item))).collect();
            element("ul", &items)
        }
        // So that a table that is too wide scrolls, and the page does not.
        Block::Table(rows) => element("div", &table(rows)),
        Block::Plot(svg) => element("figure", svg),
    };
    inner + "\n"
}

fn table(table: &Table) -> String {
    let head = table.columns.iter().map(|column| cell("th", column, &escape(&column.name)));
    let row = |cells: &Vec<Text>| {
        let cells = table.columns.iter().zip(cells).map(|(column, words)| cell("td", column, &text(words)));
        element("tr", &cells.collect::<String>()) + "\n"
    };
    let head = element("tr", &head.collect::<String>());
    let rows: String = table.rows.iter().map(row).collect();
    element("table", &format!("\n{}\n{}\n", element("thead", &head), element("tbody", &format!("\n{rows}"))))
}

fn cell(tag: &str, column: &Column, inner: &str) -> String {
    let class = if column.numbers { " class=\"n\"" } else { "" };
    format!("<{tag}{class}>{inner}</{tag}>")
}

fn text(text: &Text) -> String {
    let span = |span: &Span| match span {
        Span::Plain(words) => escape(words),
        Span::Code(words) => element("code", &escape(words)),
        Span::Strong(words) => element("strong", &escape(words)),
    };
    text.0.iter().map(span).collect()
}

/// What is inside is HTML already.
fn element(tag: &str, inner: &str) -> String {
    format!("<{tag}>{inner}</{tag}>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUDE: &str = "<b> & \"c\"";
    const POLITE: &str = "&lt;b&gt; &amp; &quot;c&quot;";

    #[test]
    fn html_in_text_is_escaped_everywhere() {
        let columns = vec![Column::words(RUDE)];
        let every = Text::from(RUDE).code(RUDE).strong(RUDE);
        let blocks = vec![
            Block::heading(2, RUDE),
            Block::Paragraph(every.clone()),
            Block::List(vec![every.clone()]),
            Block::Table(Table { columns, rows: vec![vec![every]] }),
        ];
        let page = render(&Document { title: RUDE.into(), blocks });
        assert!(!page.contains("<b>"), "{page}");
        // The title twice, the heading, the head of the column, and three kinds in three places.
        assert_eq!(page.matches(POLITE).count(), 2 + 1 + 1 + 9, "{page}");
    }

    #[test]
    fn table_becomes_an_html_table_with_aligned_numbers() {
        let columns = vec![Column::words("what"), Column::numbers("how many")];
        let rows = vec![vec!["margay".into(), "7".into()], vec!["host".into(), "8".into()]];
        let page = block(&Block::Table(Table { columns, rows }));
        let parts = [
            "<div><table>",
            "<thead><tr><th>what</th><th class=\"n\">how many</th></tr></thead>",
            "<tbody>",
            "<tr><td>margay</td><td class=\"n\">7</td></tr>",
            "<tr><td>host</td><td class=\"n\">8</td></tr>",
            "</tbody>",
            "</table></div>\n",
        ];
        assert_eq!(page, parts.join("\n"));
    }

    #[test]
    fn svg_plots_are_embedded_unchanged() {
        assert_eq!(block(&Block::Plot("<svg/>".into())), "<figure><svg/></figure>\n");
    }
}
