//! Tables, headings and fenced blocks of the documents.

/// A table; the line of each row is counted from 1.
pub(crate) struct Table {
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<(usize, Vec<String>)>,
}

impl Table {
    /// The cell of a row under the first heading with this word; empty without one.
    pub(crate) fn cell<'a>(&self, row: &'a [String], word: &str) -> &'a str {
        let column = self.header.iter().position(|cell| cell.to_lowercase().contains(word));
        column.and_then(|column| row.get(column)).map_or("", String::as_str)
    }
}

/// The first table whose first heading is this one, in any case.
pub(crate) fn table(text: &str, first_heading: &str) -> Option<Table> {
    let mut lines = text.lines().enumerate().skip_while(|(_, line)| {
        !line.starts_with('|') || !cells(line)[0].eq_ignore_ascii_case(first_heading)
    });
    let header = cells(lines.next()?.1);
    let body = lines.skip(1).take_while(|(_, line)| line.starts_with('|'));
    Some(Table { header, rows: body.map(|(index, line)| (index + 1, cells(line))).collect() })
}

/// An escaped bar is text.
fn cells(line: &str) -> Vec<String> {
    let line = line.replace("\\|", "\0");
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(|cell| cell.replace('\0', "|").trim().to_string()).collect()
}

/// What stands between backticks.
pub(crate) fn code_spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The lines of the first fenced block after the marker line.
pub(crate) fn block_after<'a>(text: &'a str, marker: &str) -> Option<Vec<&'a str>> {
    let after = text.lines().skip_while(|line| *line != marker);
    let mut inside = after.skip_while(|line| !line.starts_with("```"));
    inside.next()?;
    Some(inside.take_while(|line| !line.starts_with("```")).collect())
}

#[test]
fn tables_and_blocks_are_read() {
    let text = "# x\n| other | y |\n| - | - |\n| 1 | 2 |\n\n| Stage | tests |\n| --- | --- |\n\
        | `a` | `t1`, `t2` |\n| b \\| c | |\n\nend\n<!-- m -->\n```sh\nls\n```\n";
    let found = table(text, "stage").expect("the second table");
    assert_eq!(found.header, ["Stage", "tests"]);
    assert_eq!(found.rows.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [8, 9]);
    assert_eq!(found.rows[1].1, ["b | c", ""]);
    assert_eq!(found.cell(&found.rows[0].1, "test"), "`t1`, `t2`");
    assert_eq!(found.cell(&found.rows[0].1, "absent"), "");
    assert!(table(text, "absent").is_none());
    assert_eq!(code_spans("`t1`, `t2` and"), ["t1", "t2"]);
    assert_eq!(block_after(text, "<!-- m -->").expect("the block"), ["ls"]);
    assert!(block_after(text, "<!-- n -->").is_none());
}
