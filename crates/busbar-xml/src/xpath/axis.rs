//! Axes: which nodes are looked at from a node, and which of them are taken.

use crate::document::{NONE, NodeAt, NodeKind, XmlDocument};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Ancestor,
    AncestorOrSelf,
    Attribute,
    Child,
    Descendant,
    DescendantOrSelf,
    Following,
    FollowingSibling,
    Namespace,
    Parent,
    Preceding,
    PrecedingSibling,
    Own,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeTest {
    /// Any node.
    Node,
    Text,
    Comment,
    /// An instruction; with this target if there is one.
    Instruction(Option<Box<str>>),
    /// `*`: any node of the axis' own kind.
    Any,
    /// `prefix:*`.
    Namespace(Box<str>),
    /// A name and its namespace; none for any.
    Name(Option<Box<str>>, Box<str>),
}

impl Axis {
    pub fn of(name: &str) -> Option<Axis> {
        Some(match name {
            "ancestor" => Axis::Ancestor,
            "ancestor-or-self" => Axis::AncestorOrSelf,
            "attribute" => Axis::Attribute,
            "child" => Axis::Child,
            "descendant" => Axis::Descendant,
            "descendant-or-self" => Axis::DescendantOrSelf,
            "following" => Axis::Following,
            "following-sibling" => Axis::FollowingSibling,
            "namespace" => Axis::Namespace,
            "parent" => Axis::Parent,
            "preceding" => Axis::Preceding,
            "preceding-sibling" => Axis::PrecedingSibling,
            "self" => Axis::Own,
            _ => return None,
        })
    }

    /// Whether it goes against the order of the document.
    pub fn is_reverse(self) -> bool {
        matches!(
            self,
            Axis::Ancestor | Axis::AncestorOrSelf | Axis::Preceding | Axis::PrecedingSibling
        )
    }

    /// The kind of node that a name on this axis is about.
    fn principal(self) -> NodeKind {
        match self {
            Axis::Attribute => NodeKind::Attribute,
            Axis::Namespace => NodeKind::Namespace,
            _ => NodeKind::Element,
        }
    }

    /// Gives each node of the axis to `take`, in the axis' order, until that says no.
    pub fn walk(self, document: &XmlDocument, from: NodeAt, take: &mut dyn FnMut(NodeAt) -> bool) {
        let is_plain = from.namespace == 0;
        let data = document.data(from.node);
        let is_attribute = !is_plain || data.kind == NodeKind::Attribute;
        match self {
            Axis::Own => {
                take(from);
            }
            Axis::Parent => {
                if let Some(parent) = document.parent(from) {
                    take(parent);
                }
            }
            Axis::Ancestor | Axis::AncestorOrSelf => {
                let mut at = match self {
                    Axis::Ancestor => document.parent(from),
                    _ => Some(from),
                };
                while let Some(node) = at {
                    if !take(node) {
                        return;
                    }
                    at = document.parent(node);
                }
            }
            Axis::Child => {
                for child in document.children(from) {
                    if !take(child) {
                        return;
                    }
                }
            }
            Axis::Attribute => {
                for attribute in document.attributes(from) {
                    if !take(attribute) {
                        return;
                    }
                }
            }
            Axis::Namespace => {
                if is_plain && data.kind == NodeKind::Element {
                    for namespace in document.namespaces(from.node) {
                        if !take(namespace) {
                            return;
                        }
                    }
                }
            }
            Axis::Descendant | Axis::DescendantOrSelf => {
                if self == Axis::DescendantOrSelf && !take(from) {
                    return;
                }
                if is_plain {
                    below(document, document.first_inner(from.node), data.end, take);
                }
            }
            // What follows an attribute is what is in its element and behind it.
            Axis::Following => {
                let begin = match (is_plain, is_attribute) {
                    (false, _) => document.first_inner(from.node),
                    (true, true) => document.first_inner(data.parent),
                    (true, false) => data.end,
                };
                below(document, begin, document.nodes.len() as u32, take);
            }
            Axis::FollowingSibling => {
                if is_attribute || data.parent == NONE {
                    return;
                }
                let end = document.data(data.parent).end;
                let mut at = data.end;
                while at < end {
                    if !take(NodeAt::plain(at)) {
                        return;
                    }
                    at = document.data(at).end;
                }
            }
            Axis::PrecedingSibling => {
                if is_attribute {
                    return;
                }
                let mut at = data.previous;
                while at != NONE {
                    if !take(NodeAt::plain(at)) {
                        return;
                    }
                    at = document.data(at).previous;
                }
            }
            Axis::Preceding => {
                let mut ancestor = match is_plain {
                    true => data.parent,
                    false => from.node,
                };
                for at in (0..from.node).rev() {
                    if at == ancestor {
                        ancestor = document.data(at).parent;
                        continue;
                    }
                    let is_attribute = document.data(at).kind == NodeKind::Attribute;
                    if !is_attribute && !take(NodeAt::plain(at)) {
                        return;
                    }
                }
            }
        }
    }
}

/// The nodes from one place to another, without attributes.
fn below(document: &XmlDocument, from: u32, to: u32, take: &mut dyn FnMut(NodeAt) -> bool) {
    for at in from..to {
        let is_attribute = document.data(at).kind == NodeKind::Attribute;
        if !is_attribute && !take(NodeAt::plain(at)) {
            return;
        }
    }
}

impl NodeTest {
    pub fn fits(&self, document: &XmlDocument, axis: Axis, node: NodeAt) -> bool {
        let kind = document.kind(node);
        match self {
            NodeTest::Node => true,
            NodeTest::Text => kind == NodeKind::Text,
            NodeTest::Comment => kind == NodeKind::Comment,
            NodeTest::Instruction(target) => {
                kind == NodeKind::Instruction
                    && target
                        .as_ref()
                        .is_none_or(|target| **target == *document.local_name(node))
            }
            NodeTest::Any => kind == axis.principal(),
            NodeTest::Namespace(uri) => {
                kind == axis.principal() && **uri == *document.namespace(node)
            }
            NodeTest::Name(uri, local) => {
                kind == axis.principal()
                    && **local == *document.local_name(node)
                    && uri
                        .as_ref()
                        .is_none_or(|uri| **uri == *document.namespace(node))
            }
        }
    }
}
