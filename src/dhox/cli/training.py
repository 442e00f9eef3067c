"""The commands before export: audit, cache, distill, retune and import-dho. Nothing heavy is imported before one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dhox.cli.common import (
    Overwrite,
    check_choice,
    default_workers,
    is_first_process,
    quiet_training_libraries,
    say_next,
    say_report,
)
from dhox.console import say
from dhox.errors import DhoxError, UsageError, require


def use_recipe(context: typer.Context, file: Path | None) -> Path | None:
    """--recipe: its values become the command's defaults, before any other option is read."""
    if file is not None:
        from typing import get_type_hints

        from dhox.options.recipe import defaults_of

        options = {
            option.removeprefix("--"): str(parameter.name)
            for parameter in context.command.params
            for option in parameter.opts
            if option.startswith("--") and option not in {"--help", "--recipe"}
        }
        context.default_map = defaults_of(file, options, get_type_hints(distill))
    return file


def audit(
    data: Annotated[Path, typer.Argument(help="DATA, as for distill.")],
    out: Annotated[Path | None, typer.Option(help="Audit directory.", show_default="audits/NAME-OF-DATA")] = None,
    teacher: Annotated[str, typer.Option(help="OpenCLIP model: ARCHITECTURE/TAG, hf-hub:ORG/MODEL or local-dir:PATH.")] = "ViT-B-16/datacomp_xl_s13b_b90k",
    small_clip: Annotated[list[str] | None, typer.Option(help="A small OpenCLIP model to compare with; repeatable.", show_default=False)] = None,
    template: Annotated[list[str] | None, typer.Option(help="Prompt template with {} for the class name; repeatable.", show_default="those of --templates")] = None,
    templates: Annotated[str | None, typer.Option(help="Template ensemble: open_clip's 7 simple ones, its 80 for ImageNet, or a file with one per line.", metavar="simple|imagenet|FILE", show_default="simple")] = None,
    classes: Annotated[Path | None, typer.Option(help="Class list: a label, or label,prompt name, per line.", show_default="train's folders")] = None,
    shots: Annotated[int | None, typer.Option(help="Labelled images per class, as distill draws them.", show_default="all of train", min=1)] = None,
    split_seed: Annotated[int, typer.Option(help="Which images are labelled.", min=0)] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda")] = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.", show_default="cores - 2, at most 8", min=0)] = None,
    skip_bad_images: Annotated[bool, typer.Option("--skip-bad-images", help="Continue without unreadable images.")] = False,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Before training: what the teacher knows of DATA, leaks and odd images, and whether distilling can pay."""
    check_choice("--device", device, ("auto", "cpu", "cuda"))
    quiet_training_libraries()
    from dhox.distill.teachers.templates import template_list

    prompts = template_list(templates, template or [])
    from dhox.distill.auditing.audit import audit as run_audit
    from dhox.reports.audit.page import write_audit_page
    from dhox.reports.run.page import report_libraries_missing
    from dhox.reports.tables import print_audit

    out = out or Path("audits") / (data.resolve().name if data.is_dir() else data.stem)
    result = run_audit(
        data, out, teacher=teacher, templates=prompts, small_clips=small_clip, class_file=classes, shots=shots,
        split_seed=split_seed, device=device, workers=default_workers() if workers is None else workers,
        skip_bad_images=skip_bad_images, overwrite=overwrite,
    )  # fmt: skip
    print_audit(result.audit, result.content)
    missing = report_libraries_missing()
    say(f"Report: {write_audit_page(result.audit)}" if missing is None else f"No audit.html: {missing}")
    say_next(f"dhox distill {data}" + (f" --shots {shots}" if shots else ""))


def cache_command(
    data: Annotated[Path | None, typer.Argument(help="Image folder or manifest, as for distill.", show_default=False)] = None,
    cache: Annotated[Path, typer.Option(help="Where the caches are kept.")] = Path("runs/cache"),
    teacher: Annotated[str, typer.Option(help="OpenCLIP model: ARCHITECTURE/TAG, hf-hub:ORG/MODEL or local-dir:PATH.")] = "ViT-B-16/datacomp_xl_s13b_b90k",
    views: Annotated[int, typer.Option(help="Augmented views per training image.", min=1)] = 8,
    view_seed: Annotated[int, typer.Option(help="Crops and flips.", min=0)] = 0,
    packed_size: Annotated[int, typer.Option(help="Also pack the training images to this side in pixels.", show_default="not", min=0)] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda")] = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.", show_default="cores - 2, at most 8", min=0)] = None,
    skip_bad_images: Annotated[bool, typer.Option("--skip-bad-images", help="Continue without unreadable images.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and stop.")] = False,
    info: Annotated[Path | None, typer.Option(help="List the caches at or below a directory.", show_default=False)] = None,
    verify: Annotated[Path | None, typer.Option(help="Compare every checksum at or below a directory.", show_default=False)] = None,
    repair: Annotated[Path | None, typer.Option(help="Drop the damaged files at or below a directory.", show_default=False)] = None,
) -> None:  # fmt: skip
    """Compute a teacher cache ahead of training, or look after the caches that are there."""
    if sum(value is not None for value in (data, info, verify, repair)) != 1:
        raise UsageError(
            "dhox cache does one thing at a time.",
            "Give one of: DATA (to fill), --info DIR, --verify DIR, --repair DIR.",
        )
    check_choice("--device", device, ("auto", "cpu", "cuda"))
    quiet_training_libraries()
    from dhox.distill.processes import leave, told_of_lost_processes
    from dhox.distill.teachers.cache_upkeep import entries, fill, repair_all
    from dhox.reports.tables import print_caches, print_plan

    workers = default_workers() if workers is None else workers
    if data is not None and dry_run:
        from dhox.distill.dry_run import plan

        print_plan(plan(
            data, cache, teacher=teacher, student=None, views=views, packed_size=packed_size, device=device,
            workers=workers,
        ))  # fmt: skip
        return
    if data is not None:
        with told_of_lost_processes():
            found = fill(
                data, cache, teacher=teacher, views=views, view_seed=view_seed, packed_size=packed_size, device=device,
                workers=workers, skip_bad_images=skip_bad_images,
            )  # fmt: skip
            leave()
    elif repair is not None:
        found = repair_all(repair)
    else:
        found = entries(info or verify or Path(), checksums=verify is not None)
    print_caches(found)
    damaged = sum(len(entry.damaged) for entry in found)
    if damaged:
        raise DhoxError(
            f"{damaged} cache files are damaged or missing.",
            "`dhox cache --repair DIR` drops them; the next training computes their images again.",
        )


def distill(
    data: Annotated[Path | None, typer.Argument(help="Image folder (train/CLASS/*, unlabelled/**, val/, test/), .csv/.parquet manifest, folder of .tar shards, saved Hugging Face dataset or hf:ORG/NAME.", show_default=False)] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML file of options; options given beside it win.", callback=use_recipe, is_eager=True)] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.", show_default="runs/NAME-OF-DATA")] = None,
    teacher: Annotated[str, typer.Option(help="OpenCLIP model: ARCHITECTURE/TAG, hf-hub:ORG/MODEL or local-dir:PATH.")] = "ViT-B-16/datacomp_xl_s13b_b90k",
    teacher_scale: Annotated[float | None, typer.Option(help="Factor of the teacher's cosines.", show_default="the checkpoint's", min=0.01)] = None,
    template: Annotated[list[str] | None, typer.Option(help="Prompt template with {} for the class name; repeatable.", show_default="those of --templates")] = None,
    templates: Annotated[str | None, typer.Option(help="Template ensemble: open_clip's 7 simple ones, its 80 for ImageNet, or a file with one per line.", metavar="simple|imagenet|FILE", show_default="simple")] = None,
    classes: Annotated[Path | None, typer.Option(help="Class list: a label, or label,prompt name, per line.", show_default="train's folders")] = None,
    student: Annotated[str, typer.Option(help="Any timm model, or an OpenCLIP image tower: open_clip:ARCHITECTURE/TAG, open_clip:hf-hub:ORG/MODEL, open_clip:local-dir:PATH.")] = "resnet18",
    student_weights: Annotated[str, typer.Option(help="pretrained, none, or a file.", metavar="pretrained|none|PATH")] = "pretrained",
    image_size: Annotated[int | None, typer.Option(help="Student input in pixels.", show_default="the student's", min=8)] = None,
    kd_head: Annotated[str, typer.Option(help="W z + b; 100 (W/|W|)(z/|z|); or 100 (W z/|z| + b) as the authors' code.", metavar="linear|cosine-paper|cosine-code")] = "linear",
    init_heads: Annotated[str, typer.Option(help="text: the class text embeddings of an OpenCLIP student's own text tower.", metavar="random|text")] = "random",
    init_from: Annotated[Path | None, typer.Option(help="Run directory of an earlier student to start from.", show_default=False)] = None,
    method: Annotated[str, typer.Option(help="dho: two heads; sho: one head, both losses; ce: labels only; kd: teacher only. Several, with commas: compare them.", metavar="dho|sho|ce|kd[,...]")] = "dho",
    shots: Annotated[int | None, typer.Option(help="Labelled images per class; the rest of train is unlabelled.", show_default="all of train", min=1)] = None,
    label_fraction: Annotated[float | None, typer.Option(help="Labelled share of each class instead of --shots.", min=0.0, max=1.0)] = None,
    label_sampler: Annotated[str, typer.Option(help="How labelled images are drawn; the DHO authors' two ignore --split-seed.", metavar="dhox|few-shot-reference|percent-reference")] = "dhox",
    tune_on: Annotated[str, typer.Option(help="What chooses alpha and beta: DATA's val, 20 % of the labelled images, or nothing (they stay fixed).", metavar="val|held-out|none")] = "val",
    group_by: Annotated[str | None, typer.Option(help="Pattern whose first group, searched in an image's name, is its group (camera, recording).", metavar="REGEX")] = None,
    adapter: Annotated[str, typer.Option(help="Few-shot teacher on the labelled images: none, tip (Tip-Adapter), or tip-f (keys trained).", metavar="none|tip|tip-f")] = "none",
    teacher_embeddings: Annotated[Path | None, typer.Option(help="Embeddings computed elsewhere, one row per manifest row (.npy, .safetensors).", show_default=False)] = None,
    class_embeddings: Annotated[Path | None, typer.Option(help="Text embeddings of the classes for --teacher-embeddings.", show_default=False)] = None,
    teacher_logits: Annotated[Path | None, typer.Option(help="Logits computed elsewhere, one row per manifest row.", show_default=False)] = None,
    online_teacher: Annotated[bool, typer.Option("--online-teacher", help="No cache: a teacher forward at every step (slow, for comparison).")] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the images.", min=1)] = 30,
    epoch_over: Annotated[str, typer.Option(help="Which images an epoch passes over once.", metavar="unlabelled|labelled")] = "unlabelled",
    batch_labelled: Annotated[int, typer.Option(help="Labelled images per step.", min=1)] = 64,
    batch_unlabelled: Annotated[int, typer.Option(help="Unlabelled images per step.", min=1)] = 192,
    learning_rate: Annotated[float, typer.Option(help="AdamW's peak learning rate.", min=0.0)] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.", min=0.0)] = 0.01,
    warm_up: Annotated[float, typer.Option(help="Share of the steps with a rising learning rate.", min=0.0, max=1.0)] = 0.1,
    schedule: Annotated[str, typer.Option(help="How the learning rate falls to 0.", metavar="cosine|linear")] = "cosine",
    top_k: Annotated[int | None, typer.Option(help="Distil the teacher's k most likely classes of each image.", show_default="all", min=2)] = None,
    balance_labels: Annotated[bool, typer.Option("--balance-labels", help="Draw every class equally often from the labelled images.")] = False,
    views: Annotated[int, typer.Option(help="Augmented views per image that the teacher embeds.", min=1)] = 8,
    packed_size: Annotated[int | None, typer.Option(help="Side of the packed images in pixels; 0: decode in every epoch.", show_default="1.43 x --image-size", min=0)] = None,
    cache: Annotated[Path | None, typer.Option(help="Where teacher caches and packed images are kept.", show_default="OUT/../cache")] = None,
    seed: Annotated[int, typer.Option(help="Weights, order and drawn views.", min=0)] = 0,
    split_seed: Annotated[int, typer.Option(help="Which images are labelled.", min=0)] = 0,
    view_seed: Annotated[int, typer.Option(help="Crops and flips; one cache serves all seeds.", min=0)] = 0,
    seeds: Annotated[int | None, typer.Option(help="Compare over so many seeds, from --seed and --split-seed on.", show_default="1", min=1)] = None,
    metric: Annotated[str, typer.Option(help="What alpha, beta and the fold's r maximise on validation.", metavar="accuracy|balanced|macro-f1")] = "accuracy",
    alpha: Annotated[float | None, typer.Option(help="Weight of the CE head, instead of the search (with --beta).", show_default="searched", min=0.0, max=1.0)] = None,
    beta: Annotated[float | None, typer.Option(help="Temperature of the KD head, instead of the search (with --alpha).", show_default="searched", min=0.01)] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda")] = "auto",
    precision: Annotated[str | None, typer.Option(help="Lightning Fabric precision.", show_default="bf16-mixed on CUDA, else 32-true")] = None,
    compiled: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile.", show_default="on CUDA")] = None,
    probe_gradients: Annotated[int, typer.Option(help="Measure the conflict of the two losses' gradients every so many steps.", show_default="never", min=0)] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.", show_default="cores - 2, at most 8", min=0)] = None,
    skip_bad_images: Annotated[bool, typer.Option("--skip-bad-images", help="Continue without unreadable images.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost (disk, memory, teacher passes, hours), and stop.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training of the same settings.")] = False,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Train a dual-head student (DHO) on few labels, many unlabelled images and a CLIP teacher."""
    from dhox.data.dataset import WHAT_DATA_MAY_BE, data_name

    if data is None:
        raise UsageError("dhox distill needs DATA.", f"{WHAT_DATA_MAY_BE} To see the whole line at work: dhox demo")
    if shots is not None and label_fraction is not None:
        raise UsageError("--shots and --label-fraction both choose the labelled images.", "Give one of them.")
    methods = method.split(",")
    if len(set(methods)) < len(methods):
        raise UsageError(f"--method {method} names a method twice.", "Name each once; --seeds repeats them.")
    for name in methods:
        check_choice("--method", name, ("dho", "sho", "ce", "kd"))
    check_choice("--kd-head", kd_head, ("linear", "cosine-paper", "cosine-code"))
    check_choice("--init-heads", init_heads, ("random", "text"))
    check_choice("--device", device, ("auto", "cpu", "cuda"))
    check_choice("--metric", metric, ("accuracy", "balanced", "macro-f1"))
    check_choice("--epoch-over", epoch_over, ("unlabelled", "labelled"))
    check_choice("--schedule", schedule, ("cosine", "linear"))
    check_choice("--label-sampler", label_sampler, ("dhox", "few-shot-reference", "percent-reference"))
    check_choice("--tune-on", tune_on, ("val", "held-out", "none"))
    if methods != ["kd"]:
        from dhox.distill.images.sets import check_sampler

        check_sampler(label_sampler, shots, label_fraction)
    check_choice("--adapter", adapter, ("none", "tip", "tip-f"))
    if adapter != "none" and (not set(methods) & {"dho", "sho"} or teacher_embeddings or teacher_logits):
        raise UsageError(
            "--adapter needs labels and a teacher that runs here.", "Give --method dho or sho, and --teacher."
        )
    if (alpha is None) != (beta is None):
        raise UsageError("--alpha and --beta belong together.", "Give both, or neither to search them on validation.")
    if label_fraction == 0:
        raise UsageError("--label-fraction 0 leaves no label.", "Use --method kd to train without labels.")
    if methods == ["kd"] and (shots is not None or label_fraction is not None):
        raise UsageError("--method kd uses no label.", "Leave --shots and --label-fraction out.")
    if probe_gradients and not set(methods) <= {"dho", "sho"}:
        raise UsageError("--probe-gradients compares two losses.", "Use it with --method dho or sho.")
    if (teacher_embeddings is None) != (class_embeddings is None):
        raise UsageError("--teacher-embeddings and --class-embeddings belong together.", "Give both.")
    if teacher_logits is not None and teacher_embeddings is not None:
        raise UsageError("--teacher-logits and --teacher-embeddings are two teachers.", "Give one of them.")
    if methods == ["ce"] and (teacher_logits or teacher_embeddings or online_teacher or top_k):
        raise UsageError("--method ce has no teacher.", "Leave the teacher's options out, or choose another method.")
    if online_teacher and (teacher_logits or teacher_embeddings):
        raise UsageError("--online-teacher runs a teacher, and the files stand for one.", "Leave one of them out.")
    if methods == ["kd"] and (label_sampler != "dhox" or tune_on == "held-out"):
        raise UsageError("--method kd uses no label.", "Leave --label-sampler and --tune-on held-out out.")
    out = out or Path("runs") / data_name(data)
    quiet_training_libraries()
    from dhox.distill.processes import leave, told_of_lost_processes
    from dhox.distill.teachers.templates import template_list
    from dhox.reports.tables import print_comparison, print_distill, print_plan

    workers = default_workers() if workers is None else workers
    if dry_run:
        from dhox.distill.dry_run import plan

        teacherless = methods == ["ce"] or teacher_embeddings or teacher_logits
        print_plan(plan(
            data, cache or out.parent, teacher=None if teacherless else teacher, student=student,
            student_weights=student_weights, class_file=classes, image_size=image_size, views=views,
            packed_size=packed_size, epochs=epochs, batch_labelled=batch_labelled, batch_unlabelled=batch_unlabelled,
            device=device, precision=precision, workers=workers, trainings=len(methods) * (seeds or 1),
            epoch_over=epoch_over, online=online_teacher,
        ))  # fmt: skip
        return
    options: dict[str, Any] = {
        "teacher": teacher, "teacher_scale": teacher_scale, "templates": template_list(templates, template or []), "class_file": classes,
        "teacher_embeddings": teacher_embeddings, "class_embeddings": class_embeddings,
        "teacher_logits": teacher_logits, "online_teacher": online_teacher, "student": student,
        "student_weights": student_weights, "image_size": image_size, "kd_head": kd_head,
        "init_heads": init_heads, "init_from": init_from, "shots": shots, "label_fraction": label_fraction,
        "label_sampler": label_sampler, "tune_on": tune_on, "group_by": group_by,
        "epochs": epochs, "epoch_over": epoch_over, "batch_labelled": batch_labelled,
        "batch_unlabelled": batch_unlabelled, "learning_rate": learning_rate, "weight_decay": weight_decay,
        "warm_up": warm_up, "schedule": schedule, "top_k": top_k, "views": views, "packed_size": packed_size,
        "balance_labels": balance_labels, "seed": seed, "split_seed": split_seed, "view_seed": view_seed,
        "metric": metric, "alpha": alpha, "beta": beta, "adapter": adapter, "device": device, "precision": precision, "compiled": compiled,
        "probe_gradients": probe_gradients, "workers": workers, "cache": cache, "skip_bad_images": skip_bad_images,
        "overwrite": overwrite, "resume": resume,
    }  # fmt: skip
    if len(methods) > 1 or seeds is not None:
        from dhox.distill.compare_methods import compare

        with told_of_lost_processes():
            comparison = compare(data, out, methods, seeds or 1, **options)
            leave()
        print_comparison(comparison.out, comparison.content)
        return
    from dhox.distill.run import distill as run_distill

    with told_of_lost_processes():
        result = run_distill(data, out, method=method, **options)
        leave()
    print_distill(result.run, result.summary, result.selection)
    if is_first_process():
        say_report(result.run)
    say_next(f"dhox export {result.run} --fold-heads --fp16")


def retune(
    directory: Annotated[Path, typer.Argument(help="Run directory of method dho, rewritten; or export directory, which gives a new one.", metavar="RUN|EXPORT")],
    metric: Annotated[str | None, typer.Option(help="What alpha and beta (and r) maximise on validation.", metavar="accuracy|balanced|macro-f1", show_default="the run's")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the CE head, with --beta: taken instead of searched.", min=0.0, max=1.0)] = None,
    beta: Annotated[float | None, typer.Option(help="Temperature of the KD head, with --alpha.", min=0.01)] = None,
    r: Annotated[float | None, typer.Option("--r", help="EXPORT with a linear fold: weight of the KD head against the CE head; inf is the KD head alone.", min=0.0)] = None,
    tau: Annotated[float | None, typer.Option(help="EXPORT with a linear fold: temperature.", show_default="fitted again", min=0.001)] = None,
    out: Annotated[Path | None, typer.Option(help="The new export directory.", show_default="EXPORT-retuned")] = None,
    data: Annotated[Path | None, typer.Option(help="EXPORT: where its check images are now, for the ledger.", show_default="where the export found them")] = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Choose alpha, beta, r and tau again, or set them, from stored validation logits. Needs no torch."""
    from dhox.artefacts.files import EXPORT_FILE
    from dhox.distill.results.retune import retune as run_retune
    from dhox.reports.tables import print_distill

    if metric is not None:
        check_choice("--metric", metric, ("accuracy", "balanced", "macro-f1"))
    if (alpha is None) != (beta is None):
        raise UsageError("--alpha and --beta go together.", "Give both, or neither to search them.")
    mixture = None if alpha is None or beta is None else (alpha, beta)
    if (directory / EXPORT_FILE).is_file():
        require("onnx", "export")
        from dhox.export.retune import retune_export
        from dhox.reports.export.tables import print_export, retuned_sentence

        retuned = retune_export(
            directory, out, metric=metric, mixture=mixture, r=r, tau=tau, data=data, overwrite=overwrite
        )
        print_export(retuned.export, retuned.manifest, retuned.ledger)
        say(retuned_sentence(retuned.manifest))
        say_next(f"dhox bench {retuned.export} --device auto")
        return
    if r is not None or tau is not None or out is not None or data is not None or overwrite:
        raise UsageError(
            f"{directory} is no export directory, and --r, --tau, --out, --data and --overwrite are for exports.",
            "Give the directory that dhox export wrote.",
        )
    result = run_retune(directory, metric=metric, fixed=mixture)
    print_distill(result.run, result.summary, result.selection)
    say("alpha, beta before: ({:g}, {:g})".format(*result.before))
    say_report(result.run)
    say_next(f"dhox export {result.run} --fold-heads --fp16 --overwrite")


def import_dho(
    file: Annotated[Path, typer.Argument(help="Checkpoint (.pt) of the authors' code, as huggingface.co/erjui/dho has them.")],
    arch: Annotated[str, typer.Option(help="Its student: ViT-B-16, ViT-L-14, RN50, resnet18, resnet50 or mobilenetv2.")],
    classes: Annotated[str, typer.Option(help="Class names in the order of its training; imagenet-wnid: n01440764 ...", metavar="imagenet|imagenet-wnid|FILE")],
    out: Annotated[Path | None, typer.Option(help="Run directory.", show_default="runs/NAME-OF-FILE")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the CE head at inference.", show_default="0.5 for CLIP students, else 0.4", min=0.0, max=1.0)] = None,
    beta: Annotated[float | None, typer.Option(help="Temperature of the KD head at inference.", show_default="0.5", min=0.01)] = None,
    data: Annotated[Path | None, typer.Option(help="DATA whose val split judges the folds at export.", show_default=False)] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.", show_default="cores - 2, at most 8", min=0)] = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Turn a checkpoint of the DHO authors' code into a run directory for dhox export."""
    quiet_training_libraries()
    from dhox.distill.students.import_dho import import_dho as run_import
    from dhox.reports.tables import print_distill

    result = run_import(
        file, out or Path("runs") / file.stem, arch=arch, classes=classes, alpha=alpha, beta=beta, data=data,
        workers=default_workers() if workers is None else workers, overwrite=overwrite,
    )  # fmt: skip
    print_distill(result.run, result.summary, result.selection)
    say_next(f"dhox export {result.run} --fold-rule exact")
