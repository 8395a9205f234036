//! What surrounds the files of an image: its layers beside the history that made them, its
//! configuration, and what refers to it.

use std::sync::Arc;

use maud::{Markup, html};

use super::image::Seen;
use super::repository::artifact;
use super::show::{Shown, count, digits, image_url, number, short, size};
use crate::image::{About, Image, Made};
use crate::oci::{Descriptor, Reference, Repository};

/// Entries of a list that are shown.
const LISTED: usize = 200;
/// Characters of a text that are shown.
const SHOWN: usize = 2000;

/// A line of the history, and the layer that it made.
struct Line<'a> {
    made: Option<&'a Made>,
    layer: Option<usize>,
}

/// The history beside the layers, if it has a line for each of them.
fn lines<'a>(image: &Image, about: Option<&'a About>) -> Vec<Line<'a>> {
    let history = about.and_then(|about| about.history.as_deref()).unwrap_or_default();
    let making = history.iter().filter(|made| !made.empty_layer).count();
    if making != image.layers.len() {
        return (0..image.layers.len())
            .map(|layer| Line { made: None, layer: Some(layer) })
            .collect();
    }
    let mut layers = 0..image.layers.len();
    let line = |made: &'a Made| {
        let layer = if made.empty_layer { None } else { layers.next() };
        Line { made: Some(made), layer }
    };
    history.iter().map(line).collect()
}

/// The layers, the topmost last, as they were made.
pub fn layers(seen: &Seen<'_>, image: &Arc<Image>, about: Option<&About>) -> Markup {
    let to_layer = seen.asked.with("layer=");
    let lines = lines(image, about);
    let total: u64 = image.layers.iter().map(|layer| layer.record.compressed).sum();
    html! {
        h2 #layers { "Layers and history" }
        div.table { table.layers.rows {
            thead { tr {
                th.n { "Layer" } th { "Made by" } th.n { "To pull" } th.n.optional { "Unpacked" } th.n.optional { "Entries" } th.n.optional { "Part" }
            } }
            tbody {
                @for line in lines.iter().take(LISTED * 5) {
                    @let layer = line.layer.map(|at| (at, &image.layers[at]));
                    tr class=[layer.is_none().then_some("nothing")] {
                        td.n { @if let Some((at, layer)) = layer {
                            a href={ (to_layer) (digits(&layer.digest)) } title=(layer.digest) { (at + 1) }
                        } }
                        td { (command(line.made)) }
                        @if let Some((_, layer)) = layer {
                            td.n { (size(layer.record.compressed)) }
                            td.n.optional { (size(layer.record.uncompressed)) }
                            td.n.optional { (number(layer.record.entries)) }
                            td.n.optional { meter max=(total.max(1)) value=(layer.record.compressed) title={ (size(layer.record.compressed)) " of " (size(total)) } {} }
                        } @else {
                            td.n {} td.n.optional {} td.n.optional {} td.n.optional {}
                        }
                    }
                }
            }
        } }
    }
}

/// The command of a line of the history, without what the old builder put before it.
fn command(made: Option<&Made>) -> Markup {
    let text = made.and_then(|made| {
        made.created_by.as_deref().filter(|text| !text.is_empty()).or(made.comment.as_deref())
    });
    let text = text.unwrap_or_default();
    let text = text.strip_prefix("/bin/sh -c #(nop) ").unwrap_or(text).trim();
    html! {
        @if text.is_empty() { small { "The history does not say." } }
        @else { pre tabindex="0" { (Shown(short(text, SHOWN).as_bytes())) } }
    }
}

/// How a container of the image runs.
pub fn config(about: &About) -> Markup {
    let runs = about.config.clone().unwrap_or_default();
    let words = |words: &Option<Vec<String>>| {
        let words = words.iter().flatten().take(LISTED);
        words.map(|word| super::show::quoted(word.as_bytes())).collect::<Vec<_>>().join(" ")
    };
    let mut rows: Vec<(&str, String)> = vec![
        ("Entrypoint", words(&runs.entrypoint)),
        ("Command", words(&runs.cmd)),
        ("Directory", runs.working_dir.unwrap_or_default()),
        ("User", runs.user.unwrap_or_default()),
        ("Stop signal", runs.stop_signal.unwrap_or_default()),
        ("Author", about.author.clone().unwrap_or_default()),
        ("Made", about.created.clone().unwrap_or_default()),
        ("Docker", about.docker_version.clone().unwrap_or_default()),
    ];
    for (name, map) in [("Ports", &runs.exposed_ports), ("Volumes", &runs.volumes)] {
        let names: Vec<&str> = map.iter().flatten().take(LISTED).map(|(name, _)| &**name).collect();
        rows.insert(5, (name, names.join(", ")));
    }
    rows.retain(|(_, value)| !value.is_empty());
    let env = runs.env.unwrap_or_default();
    let labels = runs.labels.unwrap_or_default();
    html! {
        div.two {
            section {
                h2 { "Configuration" }
                div.card {
                    @if rows.is_empty() && env.is_empty() { p.empty { "The config says nothing of how it runs." } }
                    dl { @for (name, value) in &rows { dt { (name) } dd.mono { (text(value)) } } }
                    @if !env.is_empty() {
                        h3 { "Environment" }
                        dl {
                            @for variable in env.iter().take(LISTED) {
                                @let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
                                dt.mono { (text(name)) } dd.mono { (text(value)) }
                            }
                        }
                        (more(env.len(), "variable", "variables"))
                    }
                }
            }
            section {
                h2 { "Labels" }
                div.card {
                    @if labels.is_empty() { p.empty { "It has no labels." } }
                    dl { @for (name, value) in labels.iter().take(LISTED) { dt.mono { (text(name)) } dd { (text(value)) } } }
                    (more(labels.len(), "label", "labels"))
                }
            }
        }
    }
}

fn text(text: &str) -> Markup {
    html! { bdi { (Shown(short(text, SHOWN).as_bytes())) } }
}

fn more(number_of: usize, one: &str, many: &str) -> Markup {
    html! {
        @if number_of > LISTED {
            p.dim { "And " (count((number_of - LISTED) as u64, one, many)) " more, which the config itself has." }
        }
    }
}

/// Signatures, SBOMs and other manifests whose subject is the image.
pub fn referrers(repository: &Repository, referrers: &[Descriptor]) -> Markup {
    html! {
        h2 { "What belongs to it" }
        div.table { table.rows {
            thead { tr { th { "What it is" } th.optional { "Type" } th.n { "Size" } th { "Digest" } } }
            tbody {
                @for referrer in referrers {
                    @let kind = referrer.artifact_type.as_deref().unwrap_or_default();
                    tr {
                        td { (artifact(kind)) }
                        td.optional { (text(kind)) }
                        td.n { (size(referrer.size)) }
                        td.w.mono { a href=(image_url(repository, &Reference::Digest(referrer.digest), b"")) { (digits(&referrer.digest)) } }
                    }
                }
            }
        } }
    }
}
