//! Finds out whether a function is in an `impl` or a `trait`.
//!
//! An attribute macro sees only the function. In an `impl`, its expansion would cause several errors, and none would name
//! the mistake. Therefore the source code before the attribute is read.

/// `impl` or `trait`, if the attribute is directly in one. `None` if the source cannot be read.
pub(super) fn block() -> Option<&'static str> {
    if !proc_macro::is_available() {
        return None;
    }
    let span = proc_macro::Span::call_site();
    let (line, column) = (span.line(), span.column());
    let source = std::fs::read_to_string(span.local_file()?).ok()?;
    let lines = source.split_inclusive('\n').take(line);
    let mut before: String = lines.collect();
    let last = before.trim_end_matches('\n').rfind('\n').map_or(0, |end| end + 1);
    let (cut, _) = before[last..].char_indices().nth(column - 1)?;
    before.truncate(last + cut);
    // Most receivers are in the first column and in no block, which this shows faster.
    let open = before.rfind("\n}").map_or(&*before, |closed| &before[closed..]);
    if column <= 1 && !["impl", "trait"].iter().any(|word| open.contains(word)) {
        return None;
    }
    enclosing(&before)
}

/// `impl` or `trait`, if that is the innermost block that is open at the end of the source.
pub(crate) fn enclosing(source: &str) -> Option<&'static str> {
    // Each open delimiter, with the text before it in the same item.
    let mut open: Vec<(char, String)> = Vec::new();
    let mut head = String::new();
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let length = skipped(rest);
        if length > 0 {
            rest = &rest[length..];
            head.push(' ');
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '{' | '(' | '[' => open.push((c, std::mem::take(&mut head))),
            '}' => {
                open.pop();
                head.clear();
            }
            ')' | ']' => head = open.pop().unwrap_or_default().1,
            ';' => head.clear(),
            c => head.push(c),
        }
    }
    let (_, head) = open.iter().rfind(|(delimiter, _)| *delimiter == '{')?;
    let mut words = head.split(|c: char| !c.is_alphanumeric() && c != '_');
    // The first keyword decides, because a function may return `impl Trait`.
    const ITEMS: [&str; 7] = ["impl", "trait", "fn", "mod", "const", "static", "let"];
    let item = words.find_map(|word| ITEMS.into_iter().find(|item| *item == word))?;
    matches!(item, "impl" | "trait").then_some(item)
}

/// The length of the comment or literal at the beginning of the source, 1 for the quote of a lifetime, 0 for anything else.
fn skipped(source: &str) -> usize {
    let end = |start: usize, of: &str| {
        source[start..].find(of).map_or(source.len(), |at| start + at + of.len())
    };
    let bytes = source.as_bytes();
    match bytes {
        [b'/', b'/', ..] => end(2, "\n"),
        [b'/', b'*', ..] => comment(source),
        [b'"', ..] => quoted(source, '"'),
        [b'r', b'"' | b'#', ..] => {
            let hashes = bytes[1..].iter().take_while(|b| **b == b'#').count();
            match bytes.get(1 + hashes) {
                Some(b'"') => end(2 + hashes, &format!("\"{}", "#".repeat(hashes))),
                // A raw identifier.
                _ => 0,
            }
        }
        [b'\'', b'\\', ..] => quoted(source, '\''),
        [b'\'', ..] => {
            let mut chars = source.char_indices().skip(2);
            match chars.next() {
                Some((at, '\'')) => at + 1,
                _ => 1,
            }
        }
        _ => 0,
    }
}

fn quoted(source: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in source.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    source.len()
}

/// The length of a block comment, which may contain nested ones.
fn comment(source: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < source.len() {
        match &source.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    source.len()
}
