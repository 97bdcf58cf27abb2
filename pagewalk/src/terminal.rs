//! What a terminal can show.

use std::os::fd::AsFd;

/// How many columns it has; `None` if it is none.
pub fn width(stream: &impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Whether results may be coloured: on a terminal, unless `NO_COLOR` or `TERM=dumb` says no.
pub fn colors() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never
}

/// Texts beside each other if there is room, otherwise below each other.
pub fn beside(texts: &[String], width: Option<usize>) -> String {
    const GAP: usize = 4;
    let columns: Vec<Vec<&str>> = texts.iter().map(|text| text.lines().collect()).collect();
    let widths: Vec<usize> =
        columns.iter().map(|lines| lines.iter().map(|l| l.chars().count()).max().unwrap_or(0)).collect();
    let whole = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
    if texts.len() < 2 || width.is_none_or(|width| whole > width) {
        return texts.join("\n");
    }
    let rows = columns.iter().map(Vec::len).max().unwrap_or(0);
    let mut all = String::new();
    for row in 0..rows {
        let mut line = String::new();
        for (column, width) in columns.iter().zip(&widths) {
            let text = column.get(row).copied().unwrap_or("");
            line += text;
            line += &" ".repeat(width - text.chars().count() + GAP);
        }
        all += line.trim_end();
        all.push('\n');
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_beside_each_other_where_they_fit() {
        let texts = ["a\nbbb\n".to_string(), "c\n".to_string()];
        assert_eq!(beside(&texts, Some(80)), "a      c\nbbb\n");
        assert_eq!(beside(&texts, Some(7)), "a\nbbb\n\nc\n");
        assert_eq!(beside(&texts, None), "a\nbbb\n\nc\n");
    }
}
