//! The words of a template: text, and within `{{ }}` what Go's text/template takes for one word each.

/// What a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// `{{`, with or without its trim marker.
    Open,
    /// `}}`, likewise.
    Close,
    Space,
    Assign,
    Declare,
    Pipe,
    Comma,
    /// Another printable ASCII character, which has no meaning.
    Char,
    LeftParen,
    RightParen,
    Str,
    RawStr,
    CharConstant,
    Number,
    /// `$`, `$x`.
    Variable,
    /// `.ID`.
    Field,
    Dot,
    Bool,
    Nil,
    /// `if`, `range`, …
    Keyword,
    Identifier,
    End,
}

/// A word, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    /// Bytes from the beginning of the template.
    pub(super) at: usize,
    pub(super) text: &'t str,
}

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) at: usize,
    pub(super) what: String,
}

const KEYWORDS: [&str; 10] = ["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"];

/// What Go takes for a space in a template.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_alphanumeric(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Takes a template apart. The last word is always [`Kind::End`].
pub(super) fn words(template: &str) -> Result<Vec<Token<'_>>, SyntaxError> {
    let mut lexer = Lexer { template, at: 0, parens: 0, words: Vec::new() };
    lexer.text()?;
    Ok(lexer.words)
}

struct Lexer<'t> {
    template: &'t str,
    at: usize,
    parens: usize,
    words: Vec<Token<'t>>,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.template[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn wrong<T>(&self, what: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { at: self.at, what: what.into() })
    }

    /// Gives the word that begins at `from` and ends here.
    fn push(&mut self, kind: Kind, from: usize) {
        self.words.push(Token { kind, at: from, text: &self.template[from..self.at] });
    }

    /// All of it: text, and actions between.
    fn text(&mut self) -> Result<(), SyntaxError> {
        let mut trim = false;
        loop {
            let (from, rest) = (self.at, self.rest());
            let Some(open) = rest.find("{{") else {
                self.push_text(rest, trim, false);
                self.at = self.template.len();
                self.push(Kind::End, self.at);
                return Ok(());
            };
            let mut after = rest[open + 2..].chars();
            let trims = after.next() == Some('-') && after.next().is_some_and(is_space);
            self.push_text(&rest[..open], trim, trims);
            self.at = from + open + if trims { 4 } else { 2 };
            if self.rest().starts_with("/*") {
                trim = self.comment()?;
            } else {
                self.push(Kind::Open, from + open);
                trim = self.action()?;
            }
        }
    }

    /// Text that begins here, without the space that an action before or behind it trims.
    fn push_text(&mut self, text: &'t str, before: bool, behind: bool) {
        let begun = if before { text.trim_start_matches(is_space) } else { text };
        let whole = if behind { begun.trim_end_matches(is_space) } else { begun };
        if !whole.is_empty() {
            self.words.push(Token { kind: Kind::Text, at: self.at + text.len() - begun.len(), text: whole });
        }
    }

    /// A comment up to its `}}`; whether that trims.
    fn comment(&mut self) -> Result<bool, SyntaxError> {
        let Some(end) = self.rest().find("*/") else { return self.wrong("unclosed comment") };
        self.at += end + 2;
        let Some((length, trims)) = self.close() else { return self.wrong("comment ends before closing delimiter") };
        self.at += length;
        Ok(trims)
    }

    /// Whether a `}}` stands here: its length with the trim marker, and whether it has one.
    fn close(&self) -> Option<(usize, bool)> {
        let rest = self.rest();
        if rest.starts_with("}}") {
            return Some((2, false));
        }
        (rest.starts_with(is_space) && rest[1..].starts_with("-}}")).then_some((4, true))
    }

    /// The words up to `}}` and that; whether it trims.
    fn action(&mut self) -> Result<bool, SyntaxError> {
        self.parens = 0;
        loop {
            let Some((length, trims)) = self.close() else {
                self.word()?;
                continue;
            };
            if self.parens > 0 {
                return self.wrong("unclosed left paren");
            }
            let from = self.at;
            self.at += length;
            self.push(Kind::Close, from);
            return Ok(trims);
        }
    }

    fn word(&mut self) -> Result<(), SyntaxError> {
        let Some(c) = self.peek() else { return self.wrong("unclosed action") };
        let digit_follows = self.rest()[c.len_utf8()..].starts_with(|c: char| c.is_ascii_digit());
        match c {
            c if is_space(c) => self.space(),
            '"' => self.quoted(c, Kind::Str, "unterminated quoted string"),
            '\'' => self.quoted(c, Kind::CharConstant, "unterminated character constant"),
            '`' => self.raw(),
            '0'..='9' | '+' | '-' => self.number(),
            '.' if digit_follows => self.number(),
            '.' | '$' => self.field_or_variable(c),
            c if is_alphanumeric(c) => self.identifier(),
            c => self.sign(c),
        }
    }

    fn sign(&mut self, c: char) -> Result<(), SyntaxError> {
        let from = self.at;
        self.at += c.len_utf8();
        let kind = match c {
            '=' => Kind::Assign,
            ':' if self.rest().starts_with('=') => {
                self.at += 1;
                Kind::Declare
            }
            ':' => return self.wrong("expected :="),
            '|' => Kind::Pipe,
            ',' => Kind::Comma,
            '(' => {
                self.parens += 1;
                Kind::LeftParen
            }
            ')' if self.parens == 0 => return self.wrong("unexpected right paren"),
            ')' => {
                self.parens -= 1;
                Kind::RightParen
            }
            ' '..='~' => Kind::Char,
            c => return self.wrong(format!("unrecognized character in action: {}", unicode(c))),
        };
        self.push(kind, from);
        Ok(())
    }

    fn space(&mut self) -> Result<(), SyntaxError> {
        let from = self.at;
        // The space before `-}}` belongs to that.
        while self.peek().is_some_and(is_space) && self.close().is_none() {
            self.at += 1;
        }
        self.push(Kind::Space, from);
        Ok(())
    }

    fn quoted(&mut self, quote: char, kind: Kind, unterminated: &str) -> Result<(), SyntaxError> {
        let from = self.at;
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' if !matches!(chars.next(), None | Some((_, '\n'))) => {}
                '\\' | '\n' => break,
                c if c == quote => {
                    self.at = from + at + 1;
                    self.push(kind, from);
                    return Ok(());
                }
                _ => {}
            }
        }
        self.wrong(unterminated)
    }

    fn raw(&mut self) -> Result<(), SyntaxError> {
        let from = self.at;
        let Some(end) = self.rest()[1..].find('`') else { return self.wrong("unterminated raw quoted string") };
        self.at += end + 2;
        self.push(Kind::RawStr, from);
        Ok(())
    }

    /// As far as it can be one; whether it is, the parser finds out.
    fn number(&mut self) -> Result<(), SyntaxError> {
        let (from, text) = (self.at, self.rest());
        let sign = usize::from(text.starts_with(['+', '-']));
        let based = |prefix: [&str; 2]| prefix.iter().any(|prefix| text[sign..].starts_with(prefix));
        let (digits, exponents, prefix) = match () {
            () if based(["0x", "0X"]) => ("0123456789abcdefABCDEF_", "pP", 2),
            () if based(["0o", "0O"]) => ("01234567_", "", 2),
            () if based(["0b", "0B"]) => ("01_", "", 2),
            () => ("0123456789_", "eE", 0),
        };
        let run = |from: usize, digits: &str| text[from..].find(|c| !digits.contains(c)).unwrap_or(text.len() - from);
        let mut end = sign + prefix;
        end += run(end, digits);
        if text[end..].starts_with('.') {
            end += 1;
            end += run(end, digits);
        }
        if text[end..].starts_with(|c| exponents.contains(c)) {
            end += 1;
            end += usize::from(text[end..].starts_with(['+', '-']));
            end += run(end, "0123456789_");
        }
        if let Some(c) = text[end..].chars().next().filter(|c| is_alphanumeric(*c)) {
            return self.wrong(format!("bad number syntax: {:?}", &text[..end + c.len_utf8()]));
        }
        self.at += end;
        self.push(Kind::Number, from);
        Ok(())
    }

    fn field_or_variable(&mut self, sign: char) -> Result<(), SyntaxError> {
        let from = self.at;
        self.at += 1;
        let kind = match sign {
            '$' => Kind::Variable,
            _ if self.at_terminator() => Kind::Dot,
            _ => Kind::Field,
        };
        self.name()?;
        self.push(kind, from);
        Ok(())
    }

    fn identifier(&mut self) -> Result<(), SyntaxError> {
        let from = self.at;
        self.name()?;
        let kind = match &self.template[from..self.at] {
            word if KEYWORDS.contains(&word) => Kind::Keyword,
            "true" | "false" => Kind::Bool,
            "nil" => Kind::Nil,
            _ => Kind::Identifier,
        };
        self.push(kind, from);
        Ok(())
    }

    /// Letters and digits, behind which only what ends a word may stand.
    fn name(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        self.at += rest.find(|c| !is_alphanumeric(c)).unwrap_or(rest.len());
        match self.peek() {
            Some(c) if !self.at_terminator() => self.wrong(format!("bad character {}", unicode(c))),
            _ => Ok(()),
        }
    }

    fn at_terminator(&self) -> bool {
        match self.peek() {
            None | Some('.' | ',' | '|' | ':' | ')' | '(') => true,
            Some(c) => is_space(c) || self.rest().starts_with("}}"),
        }
    }
}

/// A character as Go's `%#U` writes it.
pub(super) fn unicode(c: char) -> String {
    let code = format!("U+{:04X}", c as u32);
    if c.is_control() { code } else { format!("{code} '{c}'") }
}
