//! Topics that clients may not publish to.

/// First level of the topics in which a node tells about itself. Stands where the name of a stream does when
/// permissions are checked.
pub const ROOT: &str = "$SYS";

/// Whether clients may not publish to this topic: the node's own, and those that no filter can name because
/// they would be read as shared subscriptions.
pub fn is_reserved(topic: &str) -> bool {
    topic.starts_with('$') && (is_own(topic) || topic.starts_with("$share/"))
}

/// Whether a topic or filter begins with [`ROOT`].
pub fn is_own(topic: &str) -> bool {
    topic == ROOT || topic.starts_with("$SYS/")
}
