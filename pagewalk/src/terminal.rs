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

/// Text whose lines fit: what is too long goes on below the beginning of its last column, or a little to the right of
/// its own beginning.
pub fn fitted(text: &str, width: usize) -> String {
    let mut all = String::with_capacity(text.len());
    for line in text.lines() {
        // Tables with colours were made to fit.
        if line.chars().count() <= width || line.contains('\x1b') {
            all += line;
        } else {
            broken(line, width, &mut all);
        }
        all.push('\n');
    }
    all
}

fn broken(line: &str, width: usize, all: &mut String) {
    let first = line.chars().take_while(|c| *c == ' ').count();
    let column = line.trim_end().rfind("  ").map_or(0, |at| line[..at].chars().count() + 2);
    let below = if column > first && 2 * column <= width { column } else { (first + 4).min(width / 2) };
    let (mut used, mut begun) = (0, false);
    // Words with the spaces before them.
    let mut rest = line;
    while !rest.is_empty() {
        let spaces = rest.len() - rest.trim_start_matches(' ').len();
        let word = rest[spaces..].split(' ').next().unwrap_or_default();
        let length = word.chars().count();
        if begun && used + spaces + length > width {
            all.push('\n');
            *all += &" ".repeat(below);
            used = below;
        } else {
            *all += &" ".repeat(spaces);
            used += spaces;
        }
        *all += word;
        used += length;
        begun = true;
        rest = &rest[spaces + word.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_below_their_last_column() {
        assert_eq!(fitted("ab  one two three\nshort\n", 12), "ab  one two\n    three\nshort\n");
        assert_eq!(fitted("  a sentence of words", 14), "  a sentence\n      of words\n");
        // The last column begins too far to the right.
        assert_eq!(fitted("a    1    2    3", 12), "a    1    2\n    3\n");
        let word = "x".repeat(20);
        assert_eq!(fitted(&word, 12), word.clone() + "\n");
        assert_eq!(fitted("\x1b[1mas it is, whatever\x1b[0m", 12), "\x1b[1mas it is, whatever\x1b[0m\n");
        let long = "name  says ä lot of things → to read, and more of them";
        assert!(fitted(long, 20).lines().all(|line| line.chars().count() <= 20));
        assert_eq!(
            fitted(long, 20).split_whitespace().collect::<Vec<_>>(),
            long.split_whitespace().collect::<Vec<_>>()
        );
    }

    #[test]
    fn texts_stand_beside_each_other_where_they_fit() {
        let texts = ["a\nbbb\n".to_string(), "c\n".to_string()];
        assert_eq!(beside(&texts, Some(80)), "a      c\nbbb\n");
        assert_eq!(beside(&texts, Some(7)), "a\nbbb\n\nc\n");
        assert_eq!(beside(&texts, None), "a\nbbb\n\nc\n");
    }
}
