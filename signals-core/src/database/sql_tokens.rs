//! The ends of the tokens of SQL text that can contain any character.

pub(crate) fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the section between the quote with which `text` begins and the next one. A doubled quote inside it stands for the
/// quote itself.
pub(crate) fn quoted(text: &[u8], backslashes: bool) -> usize {
    let mut bytes = text.iter().enumerate().skip(1).peekable();
    while let Some((at, byte)) = bytes.next() {
        if *byte == b'\\' && backslashes {
            bytes.next();
        } else if *byte == text[0] && bytes.next_if(|(_, next)| **next == text[0]).is_none() {
            return at + 1;
        }
    }
    text.len()
}

/// The length of a block comment, which can contain other block comments.
pub(crate) fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of a parameter (`$1`) or of a dollar-quoted string (`$tag$…$tag$`).
pub(crate) fn dollar(text: &str) -> usize {
    let word = text[1..].find(|c| !is_word_char(c)).map_or(text.len(), |end| end + 1);
    let is_tag =
        text[word..].starts_with('$') && !text[1..].starts_with(|c: char| c.is_ascii_digit());
    if !is_tag {
        return word;
    }
    let tag = &text[..=word];
    text[tag.len()..].find(tag).map_or(text.len(), |end| tag.len() + end + tag.len())
}
