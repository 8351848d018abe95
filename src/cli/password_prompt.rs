//! The prompts for passwords, at the terminal.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
};

use rustix::{
    process::Signal,
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::signal::unix::{SignalKind, signal};

use super::{interruptible::in_thread, outcome::Failure};

/// Asks for the password of a login.
pub(super) async fn ask(prompt: &str) -> Result<SecretString, Failure> {
    let terminal = open_terminal()?;
    let _hidden = EchoOff::at(&terminal)?;
    ask_line(&terminal, prompt).await
}

/// Asks for a new password and its repetition.
pub(super) async fn ask_twice(prompt: &str) -> Result<SecretString, Failure> {
    let terminal = open_terminal()?;
    let _hidden = EchoOff::at(&terminal)?;
    let password = ask_line(&terminal, prompt).await?;
    if ask_line(&terminal, "Again: ").await?.expose_secret() != password.expose_secret() {
        return Err(Failure::Usage("the passwords differ".into()));
    }
    Ok(password)
}

/// Opens the terminal of this process. From here on Ctrl-Z does nothing: it would leave the shell with a terminal that
/// hides what is typed.
fn open_terminal() -> io::Result<File> {
    drop(signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?);
    File::options().read(true).write(true).open("/dev/tty")
}

/// Prints a prompt and reads a line.
async fn ask_line(mut terminal: &File, prompt: &str) -> Result<SecretString, Failure> {
    terminal.write_all(prompt.as_bytes())?;
    let mut reader = BufReader::new(terminal.try_clone()?);
    let line = in_thread(move || {
        let mut line = String::new();
        reader.read_line(&mut line).map(|_| SecretString::from(line))
    });
    let line = line.await?;
    // Without a line end, Ctrl-D ended the input: the password may be incomplete.
    if line.expose_secret().ends_with('\n') {
        Ok(line)
    } else {
        Err(Failure::Usage("no password: the input ended before the line did".into()))
    }
}

/// Hides what is typed at a terminal, until the value is dropped.
struct EchoOff<'a> {
    terminal: &'a File,
    /// The settings of the terminal before, which are restored.
    before: Termios,
}

impl<'a> EchoOff<'a> {
    fn at(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(terminal, OptionalActions::Now, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for EchoOff<'_> {
    fn drop(&mut self) {
        // An error is ignored: a terminal that is gone shows nothing.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}
