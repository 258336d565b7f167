//! The order in which collected rows are deleted: each row before the rows that it references.

use std::collections::VecDeque;

/// A reference from one deleted row to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) child: usize,
    pub(super) parent: usize,
    /// The foreign-key column of the child.
    pub(super) column: usize,
    /// Whether the column can be NULL.
    pub(super) optional: bool,
}

/// Rows of one group that are deleted without rows of other groups between them, in the order in
/// which they are deleted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) group: usize,
    /// Each row with its depth. A row is deeper than the rows of this run that reference it, and
    /// depths never decrease.
    pub(super) rows: Vec<(usize, usize)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) runs: Vec<Run>,
    /// The edges of cycles that the order does not satisfy. Their columns are set to NULL first.
    pub(super) broken: Vec<usize>,
}

/// Orders the rows. `groups` contains the group of each row.
pub(super) fn order(groups: &[usize], edges: &[Edge]) -> Order {
    let mut sort = Sort::new(groups, edges);
    let mut cut = [Cut::BackEdges, Cut::Optional, Cut::Everything].into_iter();
    loop {
        while let Some(row) = sort.next() {
            sort.take(row);
        }
        if sort.remaining == 0 {
            return sort.order;
        }
        // Each remaining row is part of a cycle, or waits for one.
        match cut.next() {
            Some(cut) => sort.cut(cut),
            None => return sort.order,
        }
    }
}

/// Which edges of a cycle are ignored. The kinds are applied one after the other until the rows can
/// be ordered.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    /// Edges whose column can be NULL and whose parent was collected after the child. Every cycle
    /// has an edge whose parent was collected after the child.
    BackEdges,
    /// All edges whose column can be NULL.
    Optional,
    /// All edges. Such rows can exist only if the database checks the constraints at the end of the
    /// transaction.
    Everything,
}

struct Sort<'s> {
    groups: &'s [usize],
    edges: &'s [Edge],
    /// The edges from each row to the rows that it references.
    parents: Vec<Vec<usize>>,
    /// How many rows must be deleted before each row.
    waiting: Vec<usize>,
    /// The rows of each group that wait for no other row.
    ready: Vec<VecDeque<usize>>,
    /// The last run in which a row of the same group had to be deleted before this row, and the
    /// depth of this row in it.
    depth: Vec<(usize, usize)>,
    taken: Vec<bool>,
    ignored: Vec<bool>,
    remaining: usize,
    order: Order,
}

impl<'s> Sort<'s> {
    fn new(groups: &'s [usize], edges: &'s [Edge]) -> Self {
        let (rows, count) = (groups.len(), groups.iter().max().map_or(0, |last| last + 1));
        let mut sort = Self {
            groups,
            edges,
            parents: vec![Vec::new(); rows],
            waiting: vec![0; rows],
            ready: vec![VecDeque::new(); count],
            depth: vec![(0, 0); rows],
            taken: vec![false; rows],
            ignored: vec![false; edges.len()],
            remaining: rows,
            order: Order::default(),
        };
        for (place, edge) in edges.iter().enumerate() {
            // A reference of a row to itself does not restrict the order.
            if edge.child != edge.parent {
                sort.parents[edge.child].push(place);
                sort.waiting[edge.parent] += 1;
            }
        }
        for (row, group) in groups.iter().enumerate() {
            if sort.waiting[row] == 0 {
                sort.ready[*group].push_back(row);
            }
        }
        sort
    }

    /// The next row that waits for no other row. Rows of the same group are taken as long as there
    /// are any.
    fn next(&mut self) -> Option<usize> {
        let current = self.order.runs.last().map(|run| run.group);
        let current = current.filter(|group| !self.ready[*group].is_empty());
        let group = current.or_else(|| self.ready.iter().rposition(|ready| !ready.is_empty()))?;
        self.ready[group].pop_front()
    }

    fn take(&mut self, row: usize) {
        let group = self.groups[row];
        if self.order.runs.last().is_none_or(|run| run.group != group) {
            self.order.runs.push(Run { group, rows: Vec::new() });
        }
        let run = self.order.runs.len();
        let depth = if self.depth[row].0 == run { self.depth[row].1 } else { 0 };
        if let Some(last) = self.order.runs.last_mut() {
            last.rows.push((row, depth));
        }
        (self.taken[row], self.remaining) = (true, self.remaining - 1);
        for place in std::mem::take(&mut self.parents[row]) {
            let parent = self.edges[place].parent;
            if self.groups[parent] == group {
                let (of, known) = self.depth[parent];
                self.depth[parent] =
                    (run, if of == run { known.max(depth + 1) } else { depth + 1 });
            }
            self.release(place);
        }
    }

    fn cut(&mut self, cut: Cut) {
        for (place, edge) in self.edges.iter().enumerate() {
            let applies = match cut {
                Cut::BackEdges => edge.optional && edge.child < edge.parent,
                Cut::Optional => edge.optional,
                Cut::Everything => true,
            };
            if applies
                && edge.child != edge.parent
                && !self.taken[edge.child]
                && !self.ignored[place]
            {
                if edge.optional {
                    self.order.broken.push(place);
                }
                self.release(place);
            }
        }
    }

    /// Removes an edge: its parent no longer waits for its child.
    fn release(&mut self, place: usize) {
        if !std::mem::replace(&mut self.ignored[place], true) {
            let parent = self.edges[place].parent;
            self.waiting[parent] -= 1;
            if self.waiting[parent] == 0 {
                self.ready[self.groups[parent]].push_back(parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(child: usize, parent: usize) -> Edge {
        Edge { child, parent, column: 0, optional: false }
    }

    fn rows(order: &Order) -> Vec<(usize, Vec<usize>)> {
        let rows = |run: &Run| run.rows.iter().map(|(row, _)| *row).collect();
        order.runs.iter().map(|run| (run.group, rows(run))).collect()
    }

    #[test]
    fn a_row_is_deleted_before_the_rows_that_it_references() {
        let order = order(&[0, 1, 1, 2], &[edge(1, 0), edge(2, 0), edge(3, 1), edge(3, 0)]);
        assert_eq!(rows(&order), [(2, vec![3]), (1, vec![2, 1]), (0, vec![0])]);
        assert!(order.broken.is_empty());
    }

    #[test]
    fn a_chain_is_one_run_whose_depths_show_which_rows_can_share_a_statement() {
        let order = order(&[0; 4], &[edge(1, 0), edge(2, 1), edge(3, 0)]);
        assert_eq!(order.runs[0].rows, [(2, 0), (3, 0), (1, 1), (0, 2)]);
    }

    #[test]
    fn a_cycle_is_broken_at_a_nullable_column() {
        let optional = Edge { optional: true, ..edge(1, 0) };
        let order = order(&[0, 1], &[edge(0, 1), optional, edge(0, 0)]);
        assert_eq!((rows(&order), &order.broken[..]), (vec![(0, vec![0]), (1, vec![1])], &[1][..]));
    }

    #[test]
    fn a_cycle_without_a_nullable_column_is_still_deleted() {
        let order = order(&[0, 1, 2], &[edge(0, 1), edge(1, 0), edge(2, 0)]);
        assert_eq!(order.runs.iter().map(|run| run.rows.len()).sum::<usize>(), 3);
        assert!(order.broken.is_empty());
    }
}
