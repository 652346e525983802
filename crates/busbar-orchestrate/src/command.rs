//! What is asked of the engine, what it answers, and what is to be issued after a commit.

use std::sync::Arc;

use busbar_connector::ServiceRequest;
use busbar_event::Error;
use serde::Serialize;

use crate::definition::Definition;
use crate::instance::{Instance, InstanceStatus, PartFailure, ValueMap};
use crate::machine::Happening;
use crate::rules::PartRules;

/// Something to be carried out.
#[derive(Clone, Debug)]
pub enum InstanceCommand {
    /// Begins an instance, unless there is one with the key.
    Start {
        /// The orchestration.
        name: String,
        /// The input.
        input: ValueMap,
    },
    /// Something happens to an instance.
    Happens {
        /// The orchestration.
        name: String,
        /// The business key.
        key: String,
        /// What.
        what: Happening,
    },
    /// An event for instances that wait for it, now or soon.
    Event {
        /// The orchestration.
        name: String,
        /// The name of the part that waits.
        part: String,
        /// What the event's `by` is.
        value: String,
        /// What is taken from the event.
        values: ValueMap,
    },
    /// How far a reader of a stream or a schedule is; committed with the commands before it.
    Position {
        /// The reader.
        reader: String,
        /// The position.
        at: u64,
    },
}

/// What became of a command, told once it is on the disk.
#[derive(Clone, Debug)]
pub enum CommandReply {
    /// The instance with the key.
    Started(Started),
    /// It is done.
    Done,
    /// It was refused, and nothing has changed.
    Refused(Error),
}

/// An instance that was to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Started {
    /// The orchestration.
    pub name: String,
    /// The business key.
    pub key: String,
    /// There was one with the key already.
    pub existed: bool,
    /// What it is at.
    pub status: InstanceStatus,
}

/// What is to be issued after a commit.
pub enum Issue {
    /// A call.
    Call {
        /// The orchestration and the business key.
        instance: (String, String),
        /// Where in the instance.
        place: String,
        /// The part.
        part: usize,
        /// It is the call that undoes the part.
        undo: bool,
        /// The attempt and the try.
        number: (u32, u32),
        /// What is sent.
        request: ServiceRequest,
        /// Who sends it.
        rules: Arc<dyn PartRules>,
    },
    /// A look at an instance at a time.
    Timer(i64, String, String),
    /// An instance cannot go on before a person has decided.
    Alarm {
        /// The orchestration and the business key.
        instance: (String, String),
        /// Where in the instance.
        place: String,
        /// What has failed is the call that undoes the part.
        undo: bool,
        /// Why.
        failure: Option<PartFailure>,
    },
    /// An instance has ended.
    Ended(Box<Instance>),
}

/// Makes the rules of a version.
pub trait RulesCompiler: Send + Sync {
    /// The rules of a version of an orchestration.
    ///
    /// # Errors
    /// What does not fit to what the node is made of now.
    fn compile(
        &self,
        name: &str,
        definition: &Arc<Definition>,
    ) -> Result<Arc<dyn PartRules>, Error>;
}
