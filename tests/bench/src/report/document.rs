//! A text of headings, paragraphs, lists, tables and plots, whatever form it takes
//! in the end.

/// The whole of it.
pub struct Document {
    /// What it is called.
    pub title: String,
    /// What it consists of.
    pub blocks: Vec<Block>,
}

/// A part of a document.
pub enum Block {
    /// A heading; 2 is the highest below the title.
    Heading(u8, String),
    /// A paragraph.
    Paragraph(Text),
    /// A list without numbers.
    List(Vec<Text>),
    /// A table.
    Table(Table),
    /// A plot as SVG; forms that cannot show it leave it out.
    Plot(String),
}

impl Block {
    /// A heading.
    pub fn heading(level: u8, text: impl Into<String>) -> Self {
        Self::Heading(level, text.into())
    }
}

/// Words in a row.
#[derive(Clone, Debug, Default)]
pub struct Text(pub Vec<Span>);

/// Words of one kind.
#[derive(Clone, Debug)]
pub enum Span {
    /// Usual ones.
    Plain(String),
    /// What a machine says or is told.
    Code(String),
    /// What the eye is to meet first.
    Strong(String),
}

impl Text {
    /// Goes on as usual.
    pub fn plain(self, words: impl Into<String>) -> Self {
        self.and(Span::Plain(words.into()))
    }

    /// Goes on with what a machine says or is told.
    pub fn code(self, words: impl Into<String>) -> Self {
        self.and(Span::Code(words.into()))
    }

    /// Goes on with what the eye is to meet first.
    pub fn strong(self, words: impl Into<String>) -> Self {
        self.and(Span::Strong(words.into()))
    }

    fn and(mut self, span: Span) -> Self {
        self.0.push(span);
        self
    }
}

impl<S: Into<String>> From<S> for Text {
    fn from(words: S) -> Self {
        Self::default().plain(words)
    }
}

/// Rows below a head.
pub struct Table {
    /// The head.
    pub columns: Vec<Column>,
    /// The cells, as many in a row as there are columns.
    pub rows: Vec<Vec<Text>>,
}

/// The head of a column.
#[derive(Clone)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Whether it holds numbers, which are aligned to the right.
    pub numbers: bool,
}

impl Column {
    /// Of words.
    pub fn words(name: impl Into<String>) -> Self {
        Self { name: name.into(), numbers: false }
    }

    /// Of numbers.
    pub fn numbers(name: impl Into<String>) -> Self {
        Self { name: name.into(), numbers: true }
    }
}
