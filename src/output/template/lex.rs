//! Splits a template into tokens, as Go's text/template does: text, and the tokens within `{{ }}`.

/// Kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Text,
    /// `{{`, with or without its trim marker.
    LeftDelim,
    /// `}}`, with or without its trim marker.
    RightDelim,
    Space,
    Assign,
    Declare,
    Pipe,
    Comma,
    /// Any other printable ASCII character; it has no meaning.
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
    Eof,
}

/// A token and its position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'t> {
    pub(super) kind: TokenKind,
    /// Offset in the template, in bytes.
    pub(super) offset: usize,
    pub(super) text: &'t str,
}

/// An error and its offset in the template.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) offset: usize,
    pub(super) message: String,
}

const KEYWORDS: [&str; 10] = ["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"];

/// Returns true for the characters that Go treats as space in a template.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_alphanumeric(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Splits a template into tokens. The last one is always [`TokenKind::Eof`].
pub(super) fn tokenize(template: &str) -> Result<Vec<Token<'_>>, SyntaxError> {
    let mut lexer = Lexer { template, position: 0, parens: 0, tokens: Vec::new() };
    lexer.text()?;
    Ok(lexer.tokens)
}

struct Lexer<'t> {
    template: &'t str,
    position: usize,
    parens: usize,
    tokens: Vec<Token<'t>>,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.template[self.position..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { offset: self.position, message: message.into() })
    }

    /// Adds the token from `from` to the current position.
    fn push(&mut self, kind: TokenKind, from: usize) {
        self.tokens.push(Token { kind, offset: from, text: &self.template[from..self.position] });
    }

    /// Reads the whole template: text with actions in between.
    fn text(&mut self) -> Result<(), SyntaxError> {
        let mut trim = false;
        loop {
            let (from, rest) = (self.position, self.rest());
            let Some(open) = rest.find("{{") else {
                self.push_text(rest, trim, false);
                self.position = self.template.len();
                self.push(TokenKind::Eof, self.position);
                return Ok(());
            };
            let mut after = rest[open + 2..].chars();
            let trims = after.next() == Some('-') && after.next().is_some_and(is_space);
            self.push_text(&rest[..open], trim, trims);
            self.position = from + open + if trims { 4 } else { 2 };
            if self.rest().starts_with("/*") {
                trim = self.comment()?;
            } else {
                self.push(TokenKind::LeftDelim, from + open);
                trim = self.action()?;
            }
        }
    }

    /// Adds the text at the current position, without the space that the actions around it trim.
    fn push_text(&mut self, text: &'t str, trim_start: bool, trim_end: bool) {
        let trimmed_start = if trim_start { text.trim_start_matches(is_space) } else { text };
        let trimmed = if trim_end { trimmed_start.trim_end_matches(is_space) } else { trimmed_start };
        if !trimmed.is_empty() {
            self.tokens.push(Token {
                kind: TokenKind::Text,
                offset: self.position + text.len() - trimmed_start.len(),
                text: trimmed,
            });
        }
    }

    /// Reads a comment up to its `}}`. Returns true if its end trims the text that follows.
    fn comment(&mut self) -> Result<bool, SyntaxError> {
        let Some(end) = self.rest().find("*/") else { return self.error("unclosed comment") };
        self.position += end + 2;
        let Some((length, trims)) = self.right_delim() else {
            return self.error("comment ends before closing delimiter");
        };
        self.position += length;
        Ok(trims)
    }

    /// Returns the length of a `}}` at the current position, and whether it has a trim marker.
    fn right_delim(&self) -> Option<(usize, bool)> {
        let rest = self.rest();
        if rest.starts_with("}}") {
            return Some((2, false));
        }
        (rest.starts_with(is_space) && rest[1..].starts_with("-}}")).then_some((4, true))
    }

    /// Reads the tokens up to and including `}}`. Returns true if it trims the text that follows.
    fn action(&mut self) -> Result<bool, SyntaxError> {
        self.parens = 0;
        loop {
            let Some((length, trims)) = self.right_delim() else {
                self.token()?;
                continue;
            };
            if self.parens > 0 {
                return self.error("unclosed left paren");
            }
            let from = self.position;
            self.position += length;
            self.push(TokenKind::RightDelim, from);
            return Ok(trims);
        }
    }

    fn token(&mut self) -> Result<(), SyntaxError> {
        let Some(c) = self.peek() else { return self.error("unclosed action") };
        let digit_follows = self.rest()[c.len_utf8()..].starts_with(|c: char| c.is_ascii_digit());
        match c {
            c if is_space(c) => self.space(),
            '"' => self.quoted_string(c, TokenKind::Str, "unterminated quoted string"),
            '\'' => self.quoted_string(c, TokenKind::CharConstant, "unterminated character constant"),
            '`' => self.raw_string(),
            '0'..='9' | '+' | '-' => self.number(),
            '.' if digit_follows => self.number(),
            '.' | '$' => self.field_or_variable(c),
            c if is_alphanumeric(c) => self.identifier(),
            c => self.punctuation(c),
        }
    }

    fn punctuation(&mut self, c: char) -> Result<(), SyntaxError> {
        let from = self.position;
        self.position += c.len_utf8();
        let kind = match c {
            '=' => TokenKind::Assign,
            ':' if self.rest().starts_with('=') => {
                self.position += 1;
                TokenKind::Declare
            }
            ':' => return self.error("expected :="),
            '|' => TokenKind::Pipe,
            ',' => TokenKind::Comma,
            '(' => {
                self.parens += 1;
                TokenKind::LeftParen
            }
            ')' if self.parens == 0 => return self.error("unexpected right paren"),
            ')' => {
                self.parens -= 1;
                TokenKind::RightParen
            }
            ' '..='~' => TokenKind::Char,
            c => return self.error(format!("unrecognized character in action: {}", format_code_point(c))),
        };
        self.push(kind, from);
        Ok(())
    }

    fn space(&mut self) -> Result<(), SyntaxError> {
        let from = self.position;
        // The space before `-}}` is part of the delimiter.
        while self.peek().is_some_and(is_space) && self.right_delim().is_none() {
            self.position += 1;
        }
        self.push(TokenKind::Space, from);
        Ok(())
    }

    fn quoted_string(&mut self, quote: char, kind: TokenKind, unterminated: &str) -> Result<(), SyntaxError> {
        let from = self.position;
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((index, c)) = chars.next() {
            match c {
                '\\' if !matches!(chars.next(), None | Some((_, '\n'))) => {}
                '\\' | '\n' => break,
                c if c == quote => {
                    self.position = from + index + 1;
                    self.push(kind, from);
                    return Ok(());
                }
                _ => {}
            }
        }
        self.error(unterminated)
    }

    fn raw_string(&mut self) -> Result<(), SyntaxError> {
        let from = self.position;
        let Some(end) = self.rest()[1..].find('`') else { return self.error("unterminated raw quoted string") };
        self.position += end + 2;
        self.push(TokenKind::RawStr, from);
        Ok(())
    }

    /// Reads everything that can belong to a number. The parser checks whether it is valid.
    fn number(&mut self) -> Result<(), SyntaxError> {
        let (from, text) = (self.position, self.rest());
        let sign = usize::from(text.starts_with(['+', '-']));
        let has_prefix = |prefix: [&str; 2]| prefix.iter().any(|prefix| text[sign..].starts_with(prefix));
        let (digits, exponents, prefix) = match () {
            () if has_prefix(["0x", "0X"]) => ("0123456789abcdefABCDEF_", "pP", 2),
            () if has_prefix(["0o", "0O"]) => ("01234567_", "", 2),
            () if has_prefix(["0b", "0B"]) => ("01_", "", 2),
            () => ("0123456789_", "eE", 0),
        };
        let run_length =
            |from: usize, digits: &str| text[from..].find(|c| !digits.contains(c)).unwrap_or(text.len() - from);
        let mut end = sign + prefix;
        end += run_length(end, digits);
        if text[end..].starts_with('.') {
            end += 1;
            end += run_length(end, digits);
        }
        if text[end..].starts_with(|c| exponents.contains(c)) {
            end += 1;
            end += usize::from(text[end..].starts_with(['+', '-']));
            end += run_length(end, "0123456789_");
        }
        if let Some(c) = text[end..].chars().next().filter(|c| is_alphanumeric(*c)) {
            return self.error(format!("bad number syntax: {:?}", &text[..end + c.len_utf8()]));
        }
        self.position += end;
        self.push(TokenKind::Number, from);
        Ok(())
    }

    fn field_or_variable(&mut self, sign: char) -> Result<(), SyntaxError> {
        let from = self.position;
        self.position += 1;
        let kind = match sign {
            '$' => TokenKind::Variable,
            _ if self.at_terminator() => TokenKind::Dot,
            _ => TokenKind::Field,
        };
        self.name()?;
        self.push(kind, from);
        Ok(())
    }

    fn identifier(&mut self) -> Result<(), SyntaxError> {
        let from = self.position;
        self.name()?;
        let kind = match &self.template[from..self.position] {
            word if KEYWORDS.contains(&word) => TokenKind::Keyword,
            "true" | "false" => TokenKind::Bool,
            "nil" => TokenKind::Nil,
            _ => TokenKind::Identifier,
        };
        self.push(kind, from);
        Ok(())
    }

    /// Reads letters and digits, which must be followed by a character that ends a token.
    fn name(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        self.position += rest.find(|c| !is_alphanumeric(c)).unwrap_or(rest.len());
        match self.peek() {
            Some(c) if !self.at_terminator() => self.error(format!("bad character {}", format_code_point(c))),
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

/// Formats a character as Go's `%#U` does.
pub(super) fn format_code_point(c: char) -> String {
    let code = format!("U+{:04X}", c as u32);
    if c.is_control() { code } else { format!("{code} '{c}'") }
}
