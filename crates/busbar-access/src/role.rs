//! Roles and the rights each of them grants.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a user or token may do before rules restrict it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Publishes and receives live events; reads no history, sees no configuration.
    Device,
    /// Receives and reads; changes nothing.
    Viewer,
    /// Publishes, receives and reads; re-drives dead letters, pauses, resumes and replays flows.
    Operator,
    /// Everything: applies projects, manages users.
    Admin,
}

/// A kind of operation that a role grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Publish events.
    Publish,
    /// Receive live events.
    Receive,
    /// Read history, tables and the state of the node.
    Read,
    /// Pause, resume and replay flows; re-drive and discard dead letters.
    Operate,
    /// Apply projects, manage users and tokens of others.
    Administer,
}

impl Right {
    /// All rights.
    pub const ALL: [Right; 5] = [
        Right::Publish,
        Right::Receive,
        Right::Read,
        Right::Operate,
        Right::Administer,
    ];
}

impl Role {
    /// All roles, from the one with the fewest rights to the one with all. Device and viewer do not
    /// contain each other.
    pub const ALL: [Role; 4] = [Role::Device, Role::Viewer, Role::Operator, Role::Admin];

    /// The role's name as it is written in files and on the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Device => "device",
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    /// Whether the role includes `right`.
    pub fn grants(self, right: Right) -> bool {
        match right {
            Right::Publish => matches!(self, Role::Device | Role::Operator | Role::Admin),
            Right::Receive => true,
            Right::Read => matches!(self, Role::Viewer | Role::Operator | Role::Admin),
            Right::Operate => matches!(self, Role::Operator | Role::Admin),
            Right::Administer => self == Role::Admin,
        }
    }

    /// The rights that the role grants.
    pub fn rights(self) -> impl Iterator<Item = Right> {
        Right::ALL
            .into_iter()
            .filter(move |right| self.grants(*right))
    }

    /// Whether the role grants everything that `other` grants.
    pub fn covers(self, other: Role) -> bool {
        other.rights().all(|right| self.grants(right))
    }

    /// The lower one of two roles. Of device and viewer it is device: of what both grant, receiving,
    /// a device grants nothing more to look at.
    pub(crate) fn at_most(self, other: Role) -> Role {
        if self.covers(other) {
            other
        } else if other.covers(self) {
            self
        } else {
            Role::Device
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_covers_those_with_fewer_rights() {
        use Role::{Admin, Device, Operator, Viewer};
        for (role, covered) in [
            (Device, vec![Device]),
            (Viewer, vec![Viewer]),
            (Operator, vec![Device, Viewer, Operator]),
            (Admin, vec![Device, Viewer, Operator, Admin]),
        ] {
            for other in Role::ALL {
                assert_eq!(
                    role.covers(other),
                    covered.contains(&other),
                    "{role} covers {other}"
                );
            }
        }
    }
}
