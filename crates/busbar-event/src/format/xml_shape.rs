//! What the paths of columns say of the elements of XML documents: [`XmlShape`].

/// Behind the last part of a path: the element may come several times, so that its value is always a list.
pub(super) const LIST: &str = "[*]";
/// The text of an element beside its attributes and elements.
pub(super) const TEXT: &str = "#text";

/// Which elements are lists and which have their text as a member, whatever a document has of them.
#[derive(Debug, Default)]
pub(super) struct XmlShape {
    /// The first is the root element.
    nodes: Vec<ShapeNode>,
}

#[derive(Debug, Default)]
struct ShapeNode {
    below: Vec<(String, usize)>,
    is_list: bool,
    has_text: bool,
}

impl XmlShape {
    /// Adds the path of a column, and takes the mark of lists off it. False if that mark is anywhere but at its end.
    #[must_use]
    pub fn add(&mut self, path: &mut [String]) -> bool {
        if self.nodes.is_empty() {
            self.nodes.push(ShapeNode::default());
        }
        let Some(last) = path.last_mut() else {
            return true;
        };
        let is_list = last.ends_with(LIST);
        if is_list {
            last.truncate(last.len() - LIST.len());
        }
        if path.iter().any(|part| part.ends_with(LIST)) {
            return false;
        }
        let mut at = 0;
        for part in path.iter() {
            if part == TEXT {
                self.nodes[at].has_text = true;
            }
            let known = self.nodes[at].below.iter().find(|(name, _)| name == part);
            at = match known {
                Some((_, below)) => *below,
                None => {
                    self.nodes.push(ShapeNode::default());
                    let below = self.nodes.len() - 1;
                    self.nodes[at].below.push((part.clone(), below));
                    below
                }
            };
        }
        self.nodes[at].is_list |= is_list;
        true
    }

    /// The place of the root element.
    pub fn root(&self) -> Option<usize> {
        (!self.nodes.is_empty()).then_some(0)
    }

    /// The place of a member of an element.
    pub fn below(&self, node: Option<usize>, name: &str) -> Option<usize> {
        let below = &self.nodes[node?].below;
        below
            .iter()
            .find_map(|(known, place)| (known == name).then_some(*place))
    }

    pub fn is_list(&self, node: Option<usize>) -> bool {
        node.is_some_and(|node| self.nodes[node].is_list)
    }

    /// Whether the text of an element is its member `#text` even where it has nothing else.
    pub fn has_text(&self, node: Option<usize>) -> bool {
        node.is_some_and(|node| self.nodes[node].has_text)
    }
}
