//! What the machine asks of whoever knows expressions and services.

use busbar_connector::ServiceRequest;
use busbar_event::{Class, Error};
use futures::future::BoxFuture;

use crate::instance::{PartFailure, ValueMap};
use crate::limits::KEY_BYTES_MAX;

/// Checks a business key.
///
/// # Errors
/// `orchestrate.key` for one that is empty, too long, or has control characters.
pub fn check_key(key: &str) -> Result<(), Error> {
    if !key.is_empty() && key.len() <= KEY_BYTES_MAX && !key.chars().any(char::is_control) {
        return Ok(());
    }
    let error = Error::new(Class::Permanent, "orchestrate.key");
    Err(error
        .with("key", busbar_event::quote(key))
        .with("most", KEY_BYTES_MAX))
}

/// The expressions and calls of one version of an orchestration. All but [`PartRules::call`] depends on its arguments alone.
/// Parts are named by their numbers.
pub trait PartRules: Send + Sync {
    /// The business key and the typed input of an instance that is to start.
    ///
    /// # Errors
    /// Values that do not fit, or that make no key.
    fn start(&self, input: &ValueMap) -> Result<(String, ValueMap), Error>;

    /// The case of a `branch`; none if no condition is true.
    ///
    /// # Errors
    /// Conditions that fail for these values.
    fn choose(&self, part: usize, values: &ValueMap) -> Result<Option<usize>, Error>;

    /// The values that a `set` makes.
    ///
    /// # Errors
    /// Expressions that fail for these values.
    fn set(&self, part: usize, values: &ValueMap) -> Result<ValueMap, Error>;

    /// The elements of an `each`.
    ///
    /// # Errors
    /// What is no list, or does not have the declared columns.
    fn list(&self, part: usize, values: &ValueMap) -> Result<Vec<ValueMap>, Error>;

    /// The text of a `fail`, the title of a `person`, what `by` of an `event` must be.
    ///
    /// # Errors
    /// Expressions that fail or are null for these values.
    fn text(&self, part: usize, values: &ValueMap) -> Result<String, Error>;

    /// The form of a `person`, typed.
    ///
    /// # Errors
    /// Values that do not fit.
    fn form(&self, part: usize, given: &ValueMap) -> Result<ValueMap, Error>;

    /// The request of a call, or of what undoes it.
    ///
    /// # Errors
    /// Values that make none.
    fn request(&self, part: usize, undo: bool, values: &ValueMap) -> Result<ServiceRequest, Error>;

    /// What callers get.
    ///
    /// # Errors
    /// Expressions that fail for these values.
    fn answer(&self, values: &ValueMap) -> Result<ValueMap, Error>;

    /// Makes a call.
    fn call<'a>(
        &'a self,
        part: usize,
        undo: bool,
        request: &'a ServiceRequest,
    ) -> BoxFuture<'a, CallOutcome>;
}

/// What a call brought.
#[derive(Clone, Debug, PartialEq)]
pub enum CallOutcome {
    /// The typed values of the answer.
    Answered(ValueMap),
    /// It was not taken.
    Failed(PartFailure),
    /// It was not made, since the service has failed several times in a row: try in so many microseconds. Is not counted as a
    /// try.
    Later(i64),
}
