//! Assembles rows from columns, as described in the Dremel paper. Each value of a column has a definition level, the
//! number of optional and repeated fields present on its path, and a repetition level, the number of the repeated field
//! that it continues (0 for a new row). Source: <https://research.google/pubs/pub36632/>

use std::vec::IntoIter;

use parquet::basic::{ConvertedType, Repetition, Type as Physical};
use parquet::schema::types::{SchemaDescriptor, Type};
use serde_json::{Map, Value};

/// The values and levels of one row in one column.
#[derive(Default)]
pub struct Leaf {
    pub values: IntoIter<Value>,
    /// The definition levels; empty if all values are present (level `max_definition`).
    pub definition: Vec<i16>,
    /// The repetition levels; empty if the column has no lists.
    pub repetition: Vec<i16>,
    pub max_definition: i16,
    /// The number of levels; `read` of them have been read.
    pub count: usize,
    pub read: usize,
}

impl Leaf {
    pub fn is_read(&self) -> bool {
        self.read == self.count
    }

    fn definition(&self) -> Option<i16> {
        let level = self.definition.get(self.read).copied().unwrap_or(self.max_definition);
        Some(level).filter(|_| !self.is_read())
    }

    fn repetition(&self) -> i16 {
        self.repetition.get(self.read).copied().unwrap_or(0)
    }

    fn next(&mut self) -> Option<Value> {
        let is_there = self.definition()? == self.max_definition;
        self.read += 1;
        if is_there { self.values.next() } else { Some(Value::Null) }
    }
}

/// A field of the schema; leaves are named by their column.
pub enum Node {
    Leaf(usize),
    /// A map, a date or another type that no task uses; read as null.
    Unread,
    Struct(Vec<(String, Node)>),
    /// An optional field, present from this definition level on.
    Optional(i16, Box<Node>),
    /// A list. Its items are present from definition level `definition` on; each but the first has repetition level
    /// `repetition`.
    List {
        definition: i16,
        repetition: i16,
        item: Box<Node>,
    },
}

impl Node {
    pub fn of_schema(schema: &SchemaDescriptor) -> Node {
        let mut builder = Builder { column: 0 };
        let fields = schema.root_schema().get_fields();
        Node::Struct(fields.iter().map(|field| (field.name().into(), builder.field(field, 0, 0))).collect())
    }

    /// Returns the first column under this field.
    fn first(&self) -> Option<usize> {
        match self {
            Node::Leaf(column) => Some(*column),
            Node::Unread => None,
            Node::Struct(fields) => fields.iter().find_map(|(_, field)| field.first()),
            Node::Optional(_, inner) | Node::List { item: inner, .. } => inner.first(),
        }
    }

    /// Appends the columns that are read, in order.
    pub fn columns(&self, into: &mut Vec<usize>) {
        match self {
            Node::Leaf(column) => into.push(*column),
            Node::Unread => {}
            Node::Struct(fields) => fields.iter().for_each(|(_, field)| field.columns(into)),
            Node::Optional(_, inner) | Node::List { item: inner, .. } => inner.columns(into),
        }
    }

    /// Returns the field's next value, or None if the levels are inconsistent.
    pub fn value(&self, leaves: &mut [Leaf]) -> Option<Value> {
        match self {
            Node::Leaf(column) => leaves[*column].next(),
            Node::Unread => Some(Value::Null),
            Node::Struct(fields) => {
                let fields = fields.iter().map(|(name, field)| Some((name.clone(), field.value(leaves)?)));
                Some(Value::Object(fields.collect::<Option<Map<_, _>>>()?))
            }
            Node::Optional(definition, inner) => match leaves[inner.first()?].definition()? < *definition {
                true => self.absent(leaves).map(|()| Value::Null),
                false => inner.value(leaves),
            },
            Node::List { definition, repetition, item } => {
                let first = item.first()?;
                if leaves[first].definition()? < *definition {
                    return self.absent(leaves).map(|()| Value::Array(Vec::new()));
                }
                let mut items = vec![item.value(leaves)?];
                while !leaves[first].is_read() && leaves[first].repetition() >= *repetition {
                    items.push(item.value(leaves)?);
                }
                Some(Value::Array(items))
            }
        }
    }

    /// Consumes one level of each column under an absent field.
    fn absent(&self, leaves: &mut [Leaf]) -> Option<()> {
        match self {
            Node::Leaf(column) => leaves[*column].next().map(drop),
            Node::Unread => Some(()),
            Node::Struct(fields) => fields.iter().try_for_each(|(_, field)| field.absent(leaves)),
            Node::Optional(_, inner) | Node::List { item: inner, .. } => inner.absent(leaves),
        }
    }
}

struct Builder {
    /// The next column; columns are numbered in the order of the schema.
    column: usize,
}

impl Builder {
    /// Makes the node of a field below `definition` optional or repeated fields, of which `repetition` are repeated.
    fn field(&mut self, field: &Type, definition: i16, repetition: i16) -> Node {
        match field.get_basic_info().repetition() {
            Repetition::REQUIRED => self.inner(field, definition, repetition),
            Repetition::OPTIONAL => {
                let inner = self.inner(field, definition + 1, repetition);
                wrap(inner, |inner| Node::Optional(definition + 1, inner))
            }
            Repetition::REPEATED => {
                let item = self.inner(field, definition + 1, repetition + 1);
                wrap(item, |item| Node::List { definition: definition + 1, repetition: repetition + 1, item })
            }
        }
    }

    /// Makes the node of a field without its optional or repeated wrapper.
    fn inner(&mut self, field: &Type, definition: i16, repetition: i16) -> Node {
        if field.is_primitive() {
            self.column += 1;
            return match field.get_physical_type() {
                Physical::INT96 | Physical::FIXED_LEN_BYTE_ARRAY => Node::Unread,
                _ => Node::Leaf(self.column - 1),
            };
        }
        match (field.get_basic_info().converted_type(), field.get_fields()) {
            (ConvertedType::LIST, [items]) if is_repeated(items) => match wraps_items(items, field.name()) {
                true => {
                    let item = self.field(&items.get_fields()[0], definition + 1, repetition + 1);
                    wrap(item, |item| Node::List {
                        definition: definition + 1,
                        repetition: repetition + 1,
                        item,
                    })
                }
                false => self.field(items, definition, repetition),
            },
            (ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, fields) => {
                fields.iter().for_each(|field| drop(self.field(field, definition, repetition)));
                Node::Unread
            }
            (_, fields) => {
                let fields = fields
                    .iter()
                    .map(|field| (field.name().into(), self.field(field, definition, repetition)));
                let fields = Node::Struct(fields.collect());
                if fields.first().is_some() { fields } else { Node::Unread }
            }
        }
    }
}

fn wrap(inner: Node, around: impl FnOnce(Box<Node>) -> Node) -> Node {
    if inner.first().is_some() { around(Box::new(inner)) } else { Node::Unread }
}

fn is_repeated(field: &Type) -> bool {
    field.get_basic_info().repetition() == Repetition::REPEATED
}

/// Whether the repeated field of a list wraps its items; in old files it is the item itself. Source: the rules for
/// backward compatibility in parquet's LogicalTypes.md.
fn wraps_items(items: &Type, list: &str) -> bool {
    let is_item = items.is_primitive()
        || items.get_fields().len() != 1
        || items.name() == "array"
        || items.name() == format!("{list}_tuple");
    !is_item || (items.is_group() && items.get_fields().len() == 1 && is_repeated(&items.get_fields()[0]))
}
