//! The slot that changes come from, and the place in its log where they begin.

use busbar_change::postgres::pgoutput::Lsn;
use busbar_change::postgres::wire::literal;
use busbar_event::{Class, Error};

use super::Follow;
use super::follow;
use super::link::{Link, Server};

/// The name of slot and publication of a connection.
pub fn default_name(connection: &str) -> String {
    let plain = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_lowercase(),
        false => '_',
    };
    let name: String = connection.chars().map(plain).take(50).collect();
    format!("busbar_{name}")
}

/// The place to begin at. Makes the slot when it has never been there.
///
/// # Errors
/// *Configuration*: the slot is gone, or was moved on by somebody else.
pub async fn begin_at(
    server: &Server,
    sql: &mut Link,
    options: &Follow,
    name: &str,
    known: Lsn,
) -> Result<Lsn, Error> {
    // A new generation begins anew, whatever became of the slot.
    if options.generation > 0 && known == Lsn::default() && options.create {
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {} AND NOT active",
            literal(name)
        );
        sql.run(&drop)
            .await
            .map_err(|failed| follow::replication_told(server, failed))?;
    }
    match follow::slot(server, sql, name).await? {
        None if known > Lsn::default() => Err(gone(server, name)),
        None => follow::make_slot(server, sql, options, name).await,
        Some(slot) if known == Lsn::default() => Ok(slot.confirmed),
        Some(slot) if slot.confirmed > known => {
            Err(Error::new(Class::Configuration, "postgres.slot-ahead")
                .with("address", &server.address)
                .with("slot", name)
                .with("position", known)
                .with("confirmed", slot.confirmed))
        }
        Some(_) => Ok(known),
    }
}

/// The slot is not there any more.
pub fn gone(server: &Server, slot: &str) -> Error {
    Error::new(Class::Configuration, "postgres.slot-gone")
        .with("address", &server.address)
        .with("slot", slot)
}
