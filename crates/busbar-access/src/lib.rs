//! Who may do what: users, passwords, API tokens, sessions and the rules that restrict them.
//!
//! Reading order: every protocol authenticates through [`Access`], which returns a [`Principal`]; the
//! principal decides what it may publish, receive and read. [`Backing`] stores users and tokens. What this
//! crate does *not* know: sockets, HTTP, MQTT, the contents of streams. No error and no log line of it
//! holds a secret.
//!
//! * Passwords are stored as argon2id hashes; a wrong password and an unknown user take the same
//!   time and give the same answer. Failures are counted per user and per peer.
//! * API tokens and session cookies are 256 random bits; only their SHA-256 is stored.
//! * While there is no user at all, everything that comes over loopback is
//!   [`Principal::local`]; as soon as one user exists, every protocol needs a login.
//! * A [`Role`] grants rights, [`Rules`] restrict them. A token has at most the rights of its user, and
//!   what it creates never has more than the token, nor remains when the token is gone.

mod access;
mod attempts;
mod backing;
pub mod limits;
mod login_log;
mod password;
mod principal;
mod records;
mod role;
mod rules;
mod secret;
mod tokens;
mod users;

pub use access::{Access, AccessOptions, Session};
pub use backing::{Backing, MemoryBacking};
pub use login_log::LoginCounts;
pub use password::Cost;
pub use principal::{Principal, Via};
pub use role::{Right, Role};
pub use rules::{Grant, Reach, Rules};
pub use tokens::{NewToken, TokenView};
pub use users::{NewUser, UserChange, UserView};
