//! Commands for a shell, taken apart as far as documents need it.

use std::iter::Peekable;
use std::str::Chars;

/// The simple commands of a text, each as its words without quotes. Comments and redirections are
/// left out; what a command substitution says is one part of a word, as it stands.
pub fn commands(text: &str) -> Vec<Vec<String>> {
    let mut lexer = Lexer { left: text.chars().peekable(), commands: vec![Vec::new()], word: None };
    while let Some(c) = lexer.left.next() {
        lexer.take(c);
    }
    lexer.end_command();
    lexer.commands.pop();
    lexer.commands
}

struct Lexer<'a> {
    left: Peekable<Chars<'a>>,
    commands: Vec<Vec<String>>,
    word: Option<String>,
}

impl Lexer<'_> {
    fn take(&mut self, c: char) {
        match c {
            '\\' => match self.left.next() {
                Some('\n') | None => {}
                Some(c) => self.push(c),
            },
            '\'' | '"' => {
                self.word.get_or_insert_default();
                self.until(c);
            }
            '$' if self.left.peek() == Some(&'(') => {
                self.push('$');
                self.until(')');
                self.push(')');
            }
            '#' if self.word.is_none() => while self.left.next_if(|c| *c != '\n').is_some() {},
            '>' | '<' => self.redirect(),
            '\n' | ';' | '&' | '|' => self.end_command(),
            c if c.is_whitespace() => self.end_word(),
            c => self.push(c),
        }
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn until(&mut self, end: char) {
        while let Some(c) = self.left.next_if(|c| *c != end) {
            self.push(c);
        }
        self.left.next();
    }

    /// `2>&1` and `>file`: no words of the command.
    fn redirect(&mut self) {
        self.word.take_if(|word| word.chars().all(|c| c.is_ascii_digit()));
        self.end_word();
        while self.left.next_if(|c| ">&".contains(*c)).is_some() {}
        while self.left.next_if(|c| !c.is_whitespace() && !";&|".contains(*c)).is_some() {}
    }

    fn end_word(&mut self) {
        if let (Some(word), Some(command)) = (self.word.take(), self.commands.last_mut()) {
            command.push(word);
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        if self.commands.last().is_some_and(|command| !command.is_empty()) {
            self.commands.push(Vec::new());
        }
    }
}

#[test]
fn commands_are_taken_apart() {
    let text = "a 'b c' \"d\"'e' \\\n  f # g\nX=1 h $(i j) -o k && sudo l & m 2>&1 | n; p >q r\n\n";
    let expected: [&[&str]; 6] = [
        &["a", "b c", "de", "f"],
        &["X=1", "h", "$(i j)", "-o", "k"],
        &["sudo", "l"],
        &["m"],
        &["n"],
        &["p", "r"],
    ];
    assert_eq!(commands(text), expected);
}
