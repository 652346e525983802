//! Who may do what: users, passwords, API tokens, sessions and the rules each of them carries.
//!
//! Reading order: [`Access`] is the door every protocol knocks on; it answers with a
//! [`Principal`], which knows what it may publish, subscribe to and read. [`Backing`] is where
//! users and tokens are kept. What this crate does *not* know: sockets, HTTP, MQTT, streams'
//! contents. It never logs, and no error of it holds a secret.
//!
//! * Passwords are kept as argon2id hashes; a wrong password and an unknown user take the same
//!   time and give the same answer. Failures are counted per user and per peer.
//! * API tokens and session cookies are 256 random bits; only their SHA-256 is kept.
//! * While there is no user at all, everything that comes over loopback is
//!   [`Principal::local`]; as soon as one user exists, every protocol needs a login.

mod access;
mod attempts;
mod backing;
pub mod limits;
mod password;
mod principal;
mod records;
mod rules;
mod secret;

pub use access::{
    Access, AccessOptions, NewToken, NewUser, Session, TokenView, UserChange, UserView,
};
pub use backing::{Backing, MemoryBacking};
pub use password::Cost;
pub use principal::{Principal, Role, Via};
pub use rules::{Grant, Reach, Rules};
