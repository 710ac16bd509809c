//! A slice of a task: every `step`-th item of a range.

use std::ops::Range;
use std::sync::Arc;

use super::{Grading, Task, TaskError};
use crate::conversation::Conversation;

pub struct TaskSlice {
    task: Arc<dyn Task>,
    start: usize,
    step: usize,
    len: usize,
}

impl TaskSlice {
    /// Takes the items start, start + step, … below `range.end`, as far as the task has them.
    pub fn new(task: impl Into<Arc<dyn Task>>, range: Range<usize>, step: usize) -> TaskSlice {
        assert!(step > 0, "a step of 0 goes nowhere");
        let task = task.into();
        let len = range.end.min(task.len()).saturating_sub(range.start).div_ceil(step);
        TaskSlice { task, start: range.start, step, len }
    }

    fn index(&self, i: usize) -> usize {
        assert!(i < self.len, "item {i} of {}", self.len);
        self.start + i * self.step
    }
}

impl Task for TaskSlice {
    fn name(&self) -> &str {
        self.task.name()
    }

    fn kind(&self) -> Grading {
        self.task.kind()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn conversation(&self, i: usize) -> Conversation {
        self.task.conversation(self.index(i))
    }

    fn letters(&self, i: usize) -> &[String] {
        self.task.letters(self.index(i))
    }

    fn grade(&self, i: usize, answer: &str) -> Result<bool, TaskError> {
        self.task.grade(self.index(i), answer)
    }

    fn is_in_its_language(&self, i: usize, answer: &str) -> Option<bool> {
        self.task.is_in_its_language(self.index(i), answer)
    }

    fn note(&self) -> Option<&str> {
        self.task.note()
    }

    fn baseline(&self) -> f64 {
        self.task.baseline()
    }
}
