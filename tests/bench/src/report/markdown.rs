//! A document as Markdown, which is also fit for a terminal.

use super::document::{Block, Document, Span, Table, Text};

/// The whole of it.
pub fn render(document: &Document) -> String {
    let blocks = document.blocks.iter().filter_map(block);
    let parts: Vec<String> = std::iter::once(format!("# {}", plain(&document.title))).chain(blocks).collect();
    parts.join("\n\n") + "\n"
}

fn block(block: &Block) -> Option<String> {
    Some(match block {
        Block::Heading(level, words) => format!("{} {}", "#".repeat((*level).into()), plain(words)),
        Block::Paragraph(words) => text(words),
        Block::List(items) => {
            items.iter().map(|item| format!("- {}", text(item))).collect::<Vec<_>>().join("\n")
        }
        Block::Table(rows) => table(rows),
        Block::Plot(_) => return None,
    })
}

fn table(table: &Table) -> String {
    let head = line(table.columns.iter().map(|column| cell(&column.name.as_str().into())));
    let rule: String =
        table.columns.iter().map(|column| if column.numbers { "--:|" } else { "---|" }).collect();
    let rows = table.rows.iter().map(|row| line(row.iter().map(cell)));
    [head, format!("|{rule}")].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

fn line(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
}

/// A bar would end the cell, even one in code.
fn cell(words: &Text) -> String {
    text(words).replace('|', "\\|")
}

fn text(text: &Text) -> String {
    let span = |span: &Span| match span {
        Span::Plain(words) => plain(words),
        Span::Code(words) if words.contains('`') => format!("`` {words} ``"),
        Span::Code(words) => format!("`{words}`"),
        Span::Strong(words) => format!("**{}**", plain(words)),
    };
    text.0.iter().map(span).collect()
}

/// Words without what Markdown takes for its own.
fn plain(words: &str) -> String {
    let escape = |c: char| match c {
        '\\' | '`' | '*' | '<' => vec!['\\', c],
        _ => vec![c],
    };
    words.chars().flat_map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::document::Column;

    #[test]
    fn special_characters_in_cells_do_not_break_columns() {
        let columns = vec![Column::words("what"), Column::numbers("how many")];
        let rows =
            vec![vec![Text::default().code("a | b"), "1|2".into()], vec!["<c>".into(), "3 * 4".into()]];
        let document =
            Document { title: "A table".into(), blocks: vec![Block::Table(Table { columns, rows })] };
        let expected =
            "# A table\n\n| what | how many |\n|---|--:|\n| `a \\| b` | 1\\|2 |\n| \\<c> | 3 \\* 4 |\n";
        assert_eq!(render(&document), expected);
    }

    #[test]
    fn blocks_are_separated_by_blank_lines_and_plots_omitted() {
        let blocks = vec![
            Block::heading(2, "Part"),
            Block::Plot("<svg/>".into()),
            Block::Paragraph(Text::from("as ").strong("said")),
            Block::List(vec!["one".into(), "two".into()]),
        ];
        let text = render(&Document { title: "All".into(), blocks });
        assert_eq!(text, "# All\n\n## Part\n\nas **said**\n\n- one\n- two\n");
    }
}
