"""The commands of `coat-cache` that inspect or maintain a cache."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from manifests.console import as_fields, console, messages, to_json
from manifests.errors import UserError, check_least
from manifests.progress import counted
from manifests.wording import number_of


def cache_status(cache: str = "cache", json: bool = False) -> int:
    """Show clips, failures, hours and bytes by teacher; exit with 1 if a version is incomplete.

    Args:
        cache: Folder or address of the cache.
        json: Print JSON instead of a table.
    """
    from manifests.cache.layout import Layout
    from pipeline.inspect import status

    lines = status.status(Layout.open(cache))
    if json:
        print_json([as_fields(line) for line in lines])
    else:
        console.print(status.table(lines))
    return 0 if all(line.complete for line in lines) else 1


def show_clip(
    clip_id: str,
    cache: str = "cache",
    corpus: str | None = None,
    picture: str | None = None,
    json: bool = False,
) -> None:
    """Show the targets of one clip, as numbers and as a picture of all streams over time.

    Args:
        clip_id: Id of the clip, or the name of its audio file.
        cache: Folder or address of the cache.
        corpus: Name of the corpus to search; all corpora of the cache if None.
        picture: File for the picture (.png, .pdf or .svg), or a folder for CLIP_ID.png (with _ for
            /); if None, the working folder.
        json: Print only the numbers, as JSON.
    """
    from manifests.cache.reader import CacheReader
    from pipeline.inspect import show

    reader = CacheReader(cache, corpora=None if corpus is None else [corpus])
    clip = show.find_clip(reader, clip_id)
    path = show.picture_path(clip.clip_id, picture)
    facts = show.describe(reader, clip)
    if json:
        print_json(facts)
        return
    console.print(show.build_table(facts))
    drawn = show.draw(reader, clip, path)
    print_line(f"picture: {path}" if drawn else "no picture: neither audio nor targets")


def verify_cache(
    cache: str = "cache", deep: bool = False, repair: bool = False, json: bool = False
) -> int:
    """Check the cache for damage; the exit code is 1 if there is any.

    Args:
        cache: Folder or address of the cache.
        deep: Read every byte, and check checksums, pages, blobs and the ids of the corpus.
        repair: Set damaged shards aside, so that the next build creates only those again.
        json: Print one JSON line for each damage.
    """
    from manifests.cache.layout import Layout
    from pipeline.inspect import verify

    layout = Layout.open(cache)
    findings = list(verify.verify(layout, deep=deep))
    for damage in findings:
        if json:
            print(to_json(damage, indent=None))
        else:
            shard = "" if damage.shard is None else f" shard {damage.shard}"
            print_line(f"{damage.place} {damage.corpus}{shard}: {damage.file}: {damage.what}")
    if repair:
        moved, whole = verify.repair(layout, findings, deep=deep)
        messages.print(
            f"{number_of(moved, 'shard')} set aside; the next build creates what is missing"
            + (f" ({whole} have been written again meanwhile and are intact)" if whole else "")
        )
    elif not json:
        damaged = {(d.place, d.corpus, d.shard) for d in findings if d.shard is not None}
        console.print(
            f"{number_of(len(findings), 'damage')} in {number_of(len(damaged), 'shard')}"
            if findings
            else "no damage"
        )
    return 1 if findings else 0


def audit_cache(
    cache: str = "cache",
    teacher: str = "",
    sample: int = 32,
    content_only: bool = False,
    repair: bool = False,
    seed: int = 0,
    trust_remote_code: bool = False,
    json: bool = False,
) -> int:
    """Extract random rows again and compare; the exit code is 1 if one differs or is unreadable.

    Args:
        cache: Folder or address of the cache.
        teacher: Name or NAME@FINGERPRINT; if empty, the default version of each teacher, and with
            --content-only every version.
        sample: Rows per teacher and corpus; 0 means all.
        content_only: Compare only the digests of the audio, without running an expert.
        repair: Set shards with changed audio aside, so that the next build creates them again. No
            shard is set aside because of unreadable audio or targets that differ.
        seed: Seed of the sample.
        trust_remote_code: Run code that the teachers of the cache refer to: adapters of other
            projects, and the Python files of models that were built with trust_remote_code.
        json: Print one JSON line for each compared row.
    """
    from manifests.cache.layout import Layout
    from pipeline.inspect import audit, verify

    check_least("--sample", sample, 0)
    layout = Layout.open(cache)
    versions = layout.teachers() if content_only else layout.current()
    specs = [layout.teacher(teacher)] if teacher else list(versions.values())
    is_good = True
    changed: set[tuple[str, str, int]] = set()
    for spec in specs:
        verdicts: Counter[str] = Counter()
        compared = audit.audit(
            layout,
            spec,
            sample=sample,
            content_only=content_only,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
        for finding in counted(compared, spec.name, sample, "rows"):
            verdicts[finding.verdict.partition(":")[0]] += 1
            if json:
                print(to_json(finding, indent=None))
            if finding.verdict == audit.SAME:
                continue
            is_good = False
            if finding.verdict == audit.CONTENT_CHANGED:
                changed.add((finding.teacher, finding.corpus, finding.shard))
            if not json:
                print_line(audit.line(finding))
        if not json:
            print_line(audit.summary(spec, verdicts, content_only=content_only))
    if repair:
        moved = sum(verify.quarantine(layout, *place) for place in sorted(changed))
        messages.print(
            f"{number_of(moved, 'shard')} set aside; the next build creates what is missing"
        )
    return 0 if is_good else 1


def coverage(cache: str = "cache", json: bool = False) -> None:
    """Count clips by the teachers that have targets for them, with the reasons for missing ones.

    Args:
        cache: Folder or address of the cache.
        json: Print JSON instead of a table.
    """
    from manifests.cache.layout import Layout
    from pipeline.inspect import maintenance

    lines = maintenance.coverage(Layout.open(cache))
    if json:
        print_json([as_fields(line) for line in lines])
        return
    console.print(maintenance.coverage_table(lines))


def list_failures(
    cache: str = "cache",
    corpus: str = "",
    teacher: str = "",
    export: str = "",
    warnings: bool = False,
    json: bool = False,
) -> None:
    """List the clips without targets: id, file and reason, for every teacher that lacks them.

    Args:
        cache: Folder or address of the cache.
        corpus: Name of one corpus; all if empty.
        teacher: Name or NAME@FINGERPRINT; if empty, the default version of each teacher.
        export: JSON lines file for a manifest of these clips, with the reasons in the label
            `failures`. If you correct the files themselves, run coat-cache retry-failures instead.
            For other files, give the clips new ids, and run: coat-corpus build FILE --out ANOTHER.
        warnings: List the clips with targets whose audio has problems instead (docs/audio.md).
        json: Print JSON instead of a table.
    """
    from manifests.cache.layout import Layout
    from pipeline.inspect import audio_warnings, failures

    layout = Layout.open(cache)
    specs = [layout.teacher(teacher)] if teacher else list(layout.current().values())
    if warnings:
        if export:
            raise UserError("--export writes failed clips; it cannot be used with --warnings")
        warned = audio_warnings.warned_clips(
            layout, specs, [corpus] if corpus else layout.corpora()
        )
        if json:
            print_json([audio_warnings.as_json(line) for line in warned])
        else:
            console.print(audio_warnings.table(warned) if warned else "no clip has audio warnings")
        return
    lines = failures.failures(layout, specs, corpora=[corpus] if corpus else None)
    if export:
        failures.export(lines, Path(export))
        messages.print(f"{number_of(len(lines), 'clip')} in {export}")
    if json:
        print_json([failures.as_json(line) for line in lines])
    elif not export:
        nothing = "no clip has failed" if specs else "nothing has been built yet"
        console.print(failures.table(lines) if lines else nothing)


def list_versions(cache: str = "cache", json: bool = False) -> None:
    """List the versions of every teacher: settings, clips, bytes.

    Args:
        cache: Folder or address of the cache.
        json: Print JSON instead of a table.
    """
    from manifests.cache.layout import Layout
    from pipeline.inspect import maintenance

    lines = maintenance.versions(Layout.open(cache))
    if json:
        print_json([as_fields(line) for line in lines])
        return
    console.print(maintenance.versions_table(lines))


def remove_version(version: str, cache: str = "cache") -> None:
    """Delete one version of a teacher.

    Args:
        version: NAME@FINGERPRINT, as shown by `ls`.
        cache: Folder or address of the cache.
    """
    from manifests.cache.layout import Layout
    from pipeline.inspect import maintenance

    layout = Layout.open(cache)
    if "@" not in version:
        there = [key for key in layout.teachers() if key.partition("@")[0] == version]
        known = f"; the cache has {', '.join(there)}" if there else "; see coat-cache ls"
        raise UserError(f"expected NAME@FINGERPRINT, found {version!r}{known}")
    spec = layout.teacher(version)
    was_read = layout.current()[spec.name].key == version
    freed = maintenance.remove(layout, spec)
    print_line(f"{version} deleted, {freed / 1e6:,.1f} MB freed")
    if was_read:
        now = layout.current().get(spec.name)
        then = now.key if now else f"no version of {spec.name}"
        print_line(f"readers got this version; now they get {then}")


def remove_corpus(corpus: str, cache: str = "cache") -> None:
    """Delete the targets of one corpus, of all teachers.

    Args:
        corpus: Name of the corpus, as shown by `status`.
        cache: Folder or address of the cache.
    """
    from manifests.cache.layout import Layout
    from pipeline.inspect import maintenance

    layout = Layout.open(cache)
    there = layout.corpora()
    if corpus not in there:
        known = ", ".join(there) or "none"
        raise UserError(f"the cache has no corpus {corpus!r}; its corpora: {known}")
    freed = maintenance.remove_corpus(layout, corpus)
    print_line(f"corpus {corpus} deleted from {cache}, {freed / 1e6:,.1f} MB freed")


def use_version(version: str, cache: str = "cache") -> None:
    """Set the default version of a teacher, which readers get.

    Args:
        version: NAME@FINGERPRINT, as shown by `ls`. NAME without a fingerprint resets the default
            to the newest complete version.
        cache: Folder or address of the cache.
    """
    from manifests.cache.layout import Layout

    layout = Layout.open(cache)
    spec = layout.teacher(version)
    if "@" in version:
        layout.use(spec)
    else:
        layout.use_newest_complete(version)
    now = layout.current_versions()[spec.name]
    print_line(f"{spec.name}: readers get {now.spec.key} ({now.why})")


def compact(cache: str = "cache", older_than_hours: float = 168.0) -> None:
    """Delete replaced, quarantined and incomplete data, and index the markers.

    Args:
        cache: Folder or address of the cache.
        older_than_hours: Data that was replaced or set aside more recently is kept, because open
            readers may still need it, and because a running build writes data before its marker.
    """
    from manifests.cache.layout import Layout
    from pipeline.inspect import maintenance

    check_least("--older-than-hours", older_than_hours, 0)
    done = maintenance.compact(Layout.open(cache), older_than_hours=older_than_hours)
    console.print(f"{number_of(done.files, 'file')}, {done.freed_bytes / 1e6:,.1f} MB freed")
    if done.young_files:
        console.print(
            f"{number_of(done.young_files, 'file')}, {done.young_bytes / 1e6:,.1f} MB kept: "
            f"replaced less than {older_than_hours:g} h ago, so an open reader may still use them "
            "(--older-than-hours)"
        )


def print_line(text: str) -> None:
    """Prints a line without wrapping; the terminal may wrap it."""
    console.print(text, soft_wrap=True)


def print_json(value: object) -> None:
    """Prints a value as JSON on stdout."""
    print(to_json(value))
