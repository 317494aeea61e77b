//! Accuracy against labels, one line per arm.
//!
//! Invariant: a line is the mean over seeds, a whisker twice the standard error; the axes hold every point and nothing is
//! smoothed.

use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

use super::compare::{Figure, mean};
use super::results::Results;
use super::tables::curves;

const SIZE: (u32, u32) = (960, 600);
const GREY: RGBColor = RGBColor(0x5b, 0x63, 0x6e);
/// Told apart by colour-blind readers too (Okabe and Ito); ours and random first.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x80, 0x80, 0x80),
    RGBColor(0x00, 0x00, 0x00),
];

/// Labels, mean accuracy, twice its standard error.
type Dot = (f64, f64, f64);

/// The picture of an experiment, as SVG.
///
/// # Errors
/// When it cannot be drawn.
pub fn picture(results: &Results) -> anyhow::Result<String> {
    let mut svg = String::new();
    draw(&mut svg, results)
        .map_err(|error| anyhow::anyhow!("cannot draw {}: {error}", results.experiment.name))?;
    Ok(svg)
}

fn draw(svg: &mut String, results: &Results) -> Result<(), Box<dyn std::error::Error>> {
    let mut arms = curves(results);
    // The two that matter take the two strongest colours.
    arms.sort_by_key(|arm| match *arm {
        "ours" => 0,
        arm if arm == results.baseline() => 1,
        _ => 2,
    });
    let lines: Vec<(&str, Vec<Dot>)> = arms.into_iter().map(|arm| (arm, dots(results, arm))).collect();
    let all = || lines.iter().flat_map(|(_, dots)| dots);
    let (first, last) =
        (all().map(|dot| dot.0).fold(f64::MAX, f64::min), all().map(|dot| dot.0).fold(2.0, f64::max));
    let low = all().map(|dot| dot.1 - dot.2).fold(1.0, f64::min);
    let high = all().map(|dot| dot.1 + dot.2).fold(0.0, f64::max);
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title = ("sans-serif", 22).into_font().style(FontStyle::Bold).color(&BLACK);
    root.draw_text(&results.experiment.title, &title, (84, 18))?;
    let subtitle = format!(
        "accuracy {}, families equally often; means of {} seeds, whiskers: two standard errors",
        if results.is_of_teaching() { "in the mode that is taught" } else { "after reasoning" },
        results.seeds(results.baseline()).len()
    );
    root.draw_text(&subtitle, &("sans-serif", 15).into_font().color(&GREY), (84, 48))?;
    let mut chart = ChartBuilder::on(&root)
        .margin_top(78)
        .margin_right(36)
        .margin_bottom(14)
        .margin_left(14)
        .x_label_area_size(56)
        .y_label_area_size(70)
        .build_cartesian_2d(
            (first.min(last / 2.0) * 0.92..last * 1.08).log_scale(),
            (low - 0.02).max(0.0)..(high + 0.02).min(1.0).max(low + 0.04),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.18))
        .axis_style(GREY)
        .x_desc("labels (logarithmic)")
        .y_desc("accuracy")
        .x_label_formatter(&|labels| format!("{labels:.0}"))
        .y_label_formatter(&|share| format!("{:.0} %", 100.0 * share))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 16))
        .draw()?;
    for (index, (arm, dots)) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let width = if index < 2 { 3 } else { 2 };
        chart
            .draw_series(LineSeries::new(dots.iter().map(|dot| (dot.0, dot.1)), colour.stroke_width(width)))?
            // Plotters takes text for narrower than it is: blanks keep the frame off the name.
            .label(format!("{arm}    "))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 26, y)], colour.stroke_width(width)));
        // Side by side, or the whiskers of one number of labels hid each other.
        let aside = |labels: f64| labels * (1.0 + 0.006 * index as f64);
        chart.draw_series(dots.iter().map(|(labels, accuracy, error)| {
            let x = aside(*labels);
            PathElement::new([(x, accuracy - error), (x, accuracy + error)], colour.mix(0.6).stroke_width(1))
        }))?;
        chart.draw_series(dots.iter().map(|dot| Circle::new((dot.0, dot.1), 4, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .margin(16)
        .legend_area_size(34)
        .background_style(WHITE.mix(0.9))
        .border_style(GREY.mix(0.4))
        .label_font(("sans-serif", 15))
        .draw()?;
    root.present()?;
    Ok(())
}

fn dots(results: &Results, arm: &str) -> Vec<Dot> {
    let dot = |labels: usize| {
        let Figure { metric, group } = results.primary();
        let values = results.over_seeds(arm, labels, metric, group);
        let mean = mean(&values)?;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let n = values.len() as f64;
        let error = if values.len() > 1 { (variance / (n - 1.0) / n).sqrt() } else { 0.0 };
        Some((labels as f64, mean, 2.0 * error))
    };
    results.labels(arm).into_iter().filter_map(dot).collect()
}
