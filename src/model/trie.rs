//! Answers as a tree of tokens: what several answers begin with is read once.
//!
//! Invariant: a token becomes a node only if another one follows it, so an answer's last token, which nothing has to be
//! read after, costs nothing. Pure.

/// Tokens that answers go on from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, PartialEq, Eq)]
struct Node {
    token: i64,
    /// None: right after the prompt.
    parent: Option<usize>,
    depth: i64,
}

/// One token of an answer, and the node whose distribution it is taken from (none: the prompt's last token).
pub(super) type Step = (Option<usize>, i64);

impl Trie {
    /// The tree of `paths`, and each path's steps through it.
    pub fn of(paths: &[Vec<i64>]) -> (Self, Vec<Vec<Step>>) {
        let mut trie = Self::default();
        let walk = |path: &Vec<i64>| {
            let mut at = None;
            let mut steps = Vec::with_capacity(path.len());
            for (place, &token) in path.iter().enumerate() {
                steps.push((at, token));
                if place + 1 < path.len() {
                    at = Some(trie.child(at, token));
                }
            }
            steps
        };
        let steps = paths.iter().map(walk).collect();
        (trie, steps)
    }

    fn child(&mut self, parent: Option<usize>, token: i64) -> usize {
        let known = self.nodes.iter().position(|node| node.parent == parent && node.token == token);
        known.unwrap_or_else(|| {
            let depth = parent.map_or(0, |parent| self.nodes[parent].depth + 1);
            self.nodes.push(Node { token, parent, depth });
            self.nodes.len() - 1
        })
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A node's token and how far it is from the prompt (0: right after it).
    pub fn node(&self, at: usize) -> (i64, i64) {
        (self.nodes[at].token, self.nodes[at].depth)
    }

    /// The node itself and those it goes on from.
    pub fn line(&self, at: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(at), |&at| self.nodes[at].parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_beginnings_are_one_node_and_last_tokens_none() {
        let (trie, steps) = Trie::of(&[vec![1, 2, 3], vec![1, 2, 4], vec![1, 5], vec![7]]);
        assert_eq!((trie.len(), trie.node(0), trie.node(1)), (2, (1, 0), (2, 1)));
        assert_eq!(steps[1], [(None, 1), (Some(0), 2), (Some(1), 4)]);
        assert_eq!(steps[2], [(None, 1), (Some(0), 5)]);
        assert_eq!(steps[3], [(None, 7)]);
        assert_eq!(trie.line(1).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn equal_tokens_after_different_ones_are_different_nodes() {
        let (trie, _) = Trie::of(&[vec![1, 3, 9], vec![2, 3, 9]]);
        assert_eq!(trie.len(), 4);
    }
}
