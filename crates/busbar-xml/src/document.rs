//! A document as a table of its nodes.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// A document. It keeps its memory when it reads the next one.
#[derive(Clone, Debug)]
pub struct XmlDocument {
    /// In the order of the document: an element, its attributes, what is in it. The first is the root.
    pub(crate) nodes: Vec<NodeData>,
    /// The characters of all text nodes, so that all text in an element is one slice.
    pub(crate) texts: String,
    /// Values of attributes, comments and instructions, and names.
    pub(crate) others: String,
    names: Vec<NameData>,
    name_table: HashTable<u32>,
    /// Namespaces that elements declare, in the order of the document. The first is that of the prefix `xml`.
    pub(crate) declarations: Vec<Declaration>,
}

/// A node's place. Places are in the order of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAt {
    pub(crate) node: u32,
    /// Of a namespace node: which declaration, from 1. Its element is `node`.
    pub(crate) namespace: u32,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// What holds the whole document.
    Root,
    /// An element.
    Element,
    /// An attribute.
    Attribute,
    /// Characters, those of CDATA sections among them.
    Text,
    /// A comment.
    Comment,
    /// A processing instruction.
    Instruction,
    /// A namespace that holds for an element.
    Namespace,
}

#[derive(Clone, Debug)]
pub(crate) struct NodeData {
    pub kind: NodeKind,
    pub name: u32,
    pub parent: u32,
    /// The first node that is neither this one nor in it.
    pub end: u32,
    /// The node before it in its parent; `NONE` for the first and for attributes.
    pub previous: u32,
    /// Its text, in `texts` (elements, texts) or `others`.
    pub value: Slice,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slice {
    pub from: u32,
    pub to: u32,
}

#[derive(Clone, Debug)]
struct NameData {
    /// As it is written.
    written: Slice,
    /// Where the local part begins.
    local: u32,
    /// The declaration of its namespace; `NONE` for none.
    declaration: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Declaration {
    pub element: u32,
    pub prefix: Slice,
    pub uri: Slice,
}

pub(crate) const NONE: u32 = u32::MAX;
const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

impl Default for XmlDocument {
    fn default() -> Self {
        let mut document = XmlDocument {
            nodes: Vec::new(),
            texts: String::new(),
            others: String::new(),
            names: Vec::new(),
            name_table: HashTable::new(),
            declarations: Vec::new(),
        };
        document.clear();
        document
    }
}

impl XmlDocument {
    /// Forgets what was read.
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.texts.clear();
        self.others.clear();
        self.names.clear();
        self.name_table.clear();
        self.declarations.clear();
        let prefix = self.keep("xml");
        let uri = self.keep(XML_NAMESPACE);
        self.declarations.push(Declaration {
            element: 0,
            prefix,
            uri,
        });
        self.nodes.push(NodeData {
            kind: NodeKind::Root,
            name: NONE,
            parent: NONE,
            end: 1,
            previous: NONE,
            value: Slice::default(),
        });
    }

    /// The bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.nodes.capacity() * size_of::<NodeData>()
            + self.texts.capacity()
            + self.others.capacity()
            + self.names.capacity() * (size_of::<NameData>() + 8)
            + self.declarations.capacity() * size_of::<Declaration>()
    }

    /// What holds the whole document.
    pub fn root(&self) -> NodeAt {
        NodeAt::plain(0)
    }

    /// The document's element; none if it is empty.
    pub fn element(&self) -> Option<NodeAt> {
        self.children(self.root())
            .find(|node| self.kind(*node) == NodeKind::Element)
    }

    /// What a node is.
    pub fn kind(&self, node: NodeAt) -> NodeKind {
        match node.namespace {
            0 => self.data(node.node).kind,
            _ => NodeKind::Namespace,
        }
    }

    /// The node that a node is in; that of an attribute is its element.
    pub fn parent(&self, node: NodeAt) -> Option<NodeAt> {
        match node.namespace {
            0 => Some(self.data(node.node).parent)
                .filter(|parent| *parent != NONE)
                .map(NodeAt::plain),
            _ => Some(NodeAt::plain(node.node)),
        }
    }

    /// The nodes in an element or the root, without attributes.
    pub fn children(&self, node: NodeAt) -> impl Iterator<Item = NodeAt> + '_ {
        let (mut at, end) = match node.namespace {
            0 => (self.first_inner(node.node), self.data(node.node).end),
            _ => (0, 0),
        };
        std::iter::from_fn(move || {
            let child = (at < end).then_some(at)?;
            at = self.data(child).end;
            Some(NodeAt::plain(child))
        })
    }

    /// An element's attributes.
    pub fn attributes(&self, node: NodeAt) -> impl Iterator<Item = NodeAt> + '_ {
        let is_element = node.namespace == 0 && self.data(node.node).kind == NodeKind::Element;
        let (from, to) = match is_element {
            true => (node.node + 1, self.first_inner(node.node)),
            false => (0, 0),
        };
        (from..to).map(NodeAt::plain)
    }

    /// All text in a node and below it; of an attribute, a comment, an instruction or a namespace its value.
    pub fn value(&self, node: NodeAt) -> &str {
        if node.namespace > 0 {
            return self.other(self.declarations[node.namespace as usize - 1].uri);
        }
        let data = self.data(node.node);
        let range = data.value.from as usize..data.value.to as usize;
        match data.kind {
            NodeKind::Root => &self.texts,
            NodeKind::Element | NodeKind::Text => &self.texts[range],
            _ => &self.others[range],
        }
    }

    /// The name without prefix of an element or attribute, the target of an instruction, the prefix of a namespace;
    /// empty for other nodes.
    pub fn local_name(&self, node: NodeAt) -> &str {
        if node.namespace > 0 {
            return self.other(self.declarations[node.namespace as usize - 1].prefix);
        }
        match self.data(node.node).name {
            NONE => "",
            name => {
                let name = &self.names[name as usize];
                &self.others[name.local as usize..name.written.to as usize]
            }
        }
    }

    /// The name as it is written, with its prefix.
    pub fn written_name(&self, node: NodeAt) -> &str {
        match (node.namespace, self.data(node.node).name) {
            (1.., _) => self.local_name(node),
            (0, NONE) => "",
            (0, name) => self.other(self.names[name as usize].written),
        }
    }

    /// The namespace of an element's or an attribute's name; empty for none.
    pub fn namespace(&self, node: NodeAt) -> &str {
        match (node.namespace, self.data(node.node).name) {
            (1.., _) | (_, NONE) => "",
            (0, name) => match self.names[name as usize].declaration {
                NONE => "",
                declaration => self.other(self.declarations[declaration as usize].uri),
            },
        }
    }

    /// The namespace that a prefix stands for in an element; the empty prefix stands for that of names without one.
    pub fn namespace_of(&self, element: NodeAt, prefix: &str) -> Option<&str> {
        let held = self.namespaces(element.node).into_iter().find(|node| {
            let declaration = &self.declarations[node.namespace as usize - 1];
            self.other(declaration.prefix) == prefix
        })?;
        let declaration = &self.declarations[held.namespace as usize - 1];
        Some(self.other(declaration.uri))
    }

    /// The first element of this local name in a node.
    pub fn child(&self, node: NodeAt, local: &str) -> Option<NodeAt> {
        self.children(node).find(|child| {
            self.kind(*child) == NodeKind::Element && self.local_name(*child) == local
        })
    }

    /// The namespaces that hold for an element, each prefix once.
    pub(crate) fn namespaces(&self, element: u32) -> Vec<NodeAt> {
        let mut found: Vec<NodeAt> = Vec::new();
        let mut prefixes: Vec<&str> = Vec::new();
        let mut at = element;
        loop {
            let from = self.declarations.partition_point(|d| d.element < at);
            let own = self.declarations[from..]
                .iter()
                .take_while(|d| d.element == at);
            for (number, declaration) in own.enumerate() {
                let prefix = self.other(declaration.prefix);
                if prefixes.contains(&prefix) {
                    continue;
                }
                prefixes.push(prefix);
                // `xmlns=""` takes a namespace away.
                if !self.other(declaration.uri).is_empty() {
                    let namespace = (from + number + 1) as u32;
                    found.push(NodeAt {
                        node: element,
                        namespace,
                    });
                }
            }
            match self.data(at).parent {
                NONE => break,
                parent => at = parent,
            }
        }
        found.sort_unstable();
        found
    }

    pub(crate) fn data(&self, node: u32) -> &NodeData {
        &self.nodes[node as usize]
    }

    /// The first node in a node that is no attribute of it; its end if there is none.
    pub(crate) fn first_inner(&self, node: u32) -> u32 {
        let data = self.data(node);
        let mut at = node + 1;
        if data.kind == NodeKind::Element {
            while at < data.end && self.data(at).kind == NodeKind::Attribute {
                at += 1;
            }
        }
        at
    }

    pub(crate) fn other(&self, slice: Slice) -> &str {
        &self.others[slice.from as usize..slice.to as usize]
    }

    pub(crate) fn keep(&mut self, text: &str) -> Slice {
        let from = self.others.len() as u32;
        self.others.push_str(text);
        Slice {
            from,
            to: self.others.len() as u32,
        }
    }

    /// The number of a name.
    pub(crate) fn name(&mut self, written: &str, prefix_length: usize, declaration: u32) -> u32 {
        let hasher = FixedState::with_seed(0);
        let hash = hasher.hash_one((written, declaration));
        let (names, others) = (&self.names, &self.others);
        let text = |name: &NameData| &others[name.written.from as usize..name.written.to as usize];
        let known = self.name_table.find(hash, |name| {
            let name = &names[*name as usize];
            name.declaration == declaration && text(name) == written
        });
        if let Some(known) = known {
            return *known;
        }
        let slice = self.keep(written);
        let number = self.names.len() as u32;
        self.names.push(NameData {
            written: slice,
            local: slice.from + prefix_length as u32,
            declaration,
        });
        let (names, others) = (&self.names, &self.others);
        self.name_table.insert_unique(hash, number, |name| {
            let name = &names[*name as usize];
            let written = &others[name.written.from as usize..name.written.to as usize];
            hasher.hash_one((written, name.declaration))
        });
        number
    }
}

impl NodeAt {
    pub(crate) fn plain(node: u32) -> NodeAt {
        NodeAt { node, namespace: 0 }
    }
}
