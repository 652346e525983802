//! Passwords that are typed, and the tokens that `busbar login` keeps.
//!
//! Tokens stand in `busbar/logins.json` in the user's folder of settings (`$XDG_CONFIG_HOME`, or
//! `~/.config`), readable by its owner alone.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use busbar_event::{Class, Error};
use serde::{Deserialize, Serialize};

use crate::exit::{self, Failure};
use crate::say;

/// What `busbar login` left for a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// Names the token.
    pub id: String,
    /// The token.
    pub token: String,
}

/// The login for a node; `None` when there is none that can be read.
pub fn saved(url: &str) -> Option<Login> {
    read(&file()?).ok()?.remove(url)
}

/// Keeps a login, or forgets it.
///
/// # Errors
/// When the folder of settings cannot be written.
pub fn save(url: &str, login: Option<Login>) -> Result<(), Failure> {
    let Some(path) = file() else {
        return Err(Error::new(Class::Configuration, "cli.no-home").into());
    };
    let failed = |why: io::Error| {
        let error =
            Error::new(Class::Configuration, "cli.cannot-write").with("path", path.display());
        Failure::new(exit::IO, error.caused_by(why))
    };
    let mut logins = read(&path).map_err(failed)?;
    match login {
        Some(login) => logins.insert(url.to_owned(), login),
        None => logins.remove(url),
    };
    write(&path, &logins).map_err(failed)
}

/// A password: `BUSBAR_PASSWORD`, typed unseen at a terminal, or a line of standard input. It never
/// stands in the command line, where others could read it.
///
/// # Errors
/// When there is none.
pub fn password() -> Result<String, Failure> {
    match std::env::var("BUSBAR_PASSWORD") {
        Ok(password) if !password.is_empty() => Ok(password),
        _ => typed_password(),
    }
}

/// A password as it is typed, or the next line of standard input.
///
/// # Errors
/// When there is none.
pub fn typed_password() -> Result<String, Failure> {
    let terminal = io::stdin().is_terminal();
    if terminal {
        eprint!("{} ", say::line("cli.password", &[]));
    }
    let unseen = terminal.then(Unseen::begin).flatten();
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    if unseen.is_some() {
        eprintln!();
    }
    drop(unseen);
    let none = || Error::new(Class::Configuration, "cli.no-password");
    read.map_err(|why| Failure::new(exit::IO, none().caused_by(why)))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(none().into());
    }
    Ok(password.to_owned())
}

fn file() -> Option<PathBuf> {
    let settings = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(settings.join("busbar/logins.json"))
}

fn read(path: &Path) -> io::Result<BTreeMap<String, Login>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(why) => Err(why),
    }
}

/// Writes beside it and renames, so that a reader finds the old file or the new one.
fn write(path: &Path, logins: &BTreeMap<String, Login>) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    serde_json::to_writer_pretty(&mut file, logins)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

/// Keeps a terminal from showing what is typed, until it is dropped.
struct Unseen(libc::termios);

impl Unseen {
    fn begin() -> Option<Unseen> {
        // SAFETY: termios is plain data for which all zeros are valid; tcgetattr fills it or fails.
        let before = unsafe {
            let mut now: libc::termios = std::mem::zeroed();
            if libc::tcgetattr(libc::STDIN_FILENO, &mut now) != 0 {
                return None;
            }
            now
        };
        let mut quiet = before;
        quiet.c_lflag &= !libc::ECHO;
        // SAFETY: `quiet` is a termios that tcgetattr filled; the descriptor is standard input.
        let set = unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &quiet) };
        (set == 0).then_some(Unseen(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // SAFETY: what is set is what tcgetattr returned for the same descriptor.
        unsafe {
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn logins_are_kept_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("busbar/logins.json");
        assert!(read(&path).unwrap().is_empty());
        let login = Login {
            user: "alice".to_owned(),
            id: "1".to_owned(),
            token: "secret".to_owned(),
        };
        let logins = BTreeMap::from([("http://127.0.0.1:8080".to_owned(), login)]);
        write(&path, &logins).unwrap();
        let kept = read(&path).unwrap();
        assert_eq!(kept["http://127.0.0.1:8080"].token, "secret");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&path, "{").unwrap();
        assert!(
            read(&path).is_err(),
            "a broken file must not be overwritten"
        );
    }
}
