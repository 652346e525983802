//! What the connectors of SQL databases with a protocol of their own share: where a server is, why a statement failed, how a
//! delivery is written in one transaction with its position, and how rows are read in the order of their key. What a
//! database writes its own way, in SQL and on the socket, stays in its folder.

pub mod failure;
pub mod keyed_pages;
pub mod literal;
pub mod login;
pub mod selected;
pub mod session;
pub mod sink;

pub use failure::{Doing, Failed, ServerSaid};
pub use login::{LoginOptions, Server};
pub use session::{SessionServer, SqlAnswer, SqlSession};
