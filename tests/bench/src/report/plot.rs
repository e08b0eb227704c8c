//! Plots, as SVG in text.

use plotters::{coord::Shift, prelude::*};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What goes wrong in drawing.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A bar with the span of what it sums up.
pub struct Bar {
    /// Its name.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// The least and the most.
    pub span: (f64, f64),
    /// Whether it is Margay's.
    pub ours: bool,
}

/// A line of points.
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

fn draw(size: (u32, u32), with: impl FnOnce(&Area<'_>) -> Result<(), Failure>) -> Result<String, Failure> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        with(&area)?;
        area.present()?;
    }
    Ok(svg)
}

/// Horizontal bars from zero, each with its span, and a line at one.
pub fn bars(title: &str, bars: &[Bar]) -> Result<String, Failure> {
    let most = bars.iter().map(|bar| bar.span.1).fold(1.0, f64::max) * 1.05;
    let count = bars.len() as i32;
    draw((860, 70 + 26 * bars.len() as u32), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(190)
            .build_cartesian_2d(0.0..most, (0..count - 1).into_segmented())?;
        let name = |at: &SegmentValue<i32>| match at {
            SegmentValue::CenterOf(i) => {
                bars.get((count - 1 - i) as usize).map(|bar| bar.name.clone()).unwrap_or_default()
            }
            _ => String::new(),
        };
        chart.configure_mesh().disable_y_mesh().y_labels(bars.len()).y_label_formatter(&name).draw()?;
        for (i, bar) in (0..count).rev().zip(bars) {
            let colour = if bar.ours { RGBColor(196, 78, 42) } else { RGBColor(110, 130, 150) };
            let corners = [(0.0, SegmentValue::Exact(i)), (bar.value, SegmentValue::Exact(i + 1))];
            let mut shape = Rectangle::new(corners, colour.mix(0.8).filled());
            shape.set_margin(4, 4, 0, 0);
            chart.draw_series([shape])?;
            let middle = SegmentValue::CenterOf(i);
            let span = [(bar.span.0, middle.clone()), (bar.span.1, middle)];
            chart.draw_series([PathElement::new(span, BLACK.stroke_width(2))])?;
        }
        let one = [(1.0, SegmentValue::Exact(0)), (1.0, SegmentValue::Exact(count))];
        chart.draw_series([PathElement::new(one, BLACK.mix(0.4))])?;
        Ok(())
    })
}

/// Lines over a logarithmic axis.
pub fn lines(title: &str, x: &str, y: &str, lines: &[Line]) -> Result<String, Failure> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (least, most) = points().fold((f64::MAX, f64::MIN), |(l, m), (x, _)| (l.min(*x), m.max(*x)));
    let top = points().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max) * 1.05;
    if least >= most {
        return Ok(String::new());
    }
    draw((860, 420), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d((least..most).log_scale(), 0.0..top)?;
        chart.configure_mesh().x_desc(x).y_desc(y).draw()?;
        for (i, line) in lines.iter().enumerate() {
            let colour = Palette99::pick(i).to_rgba();
            let series = LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(2);
            chart
                .draw_series(series)?
                .label(line.name.clone())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        Ok(())
    })
}
