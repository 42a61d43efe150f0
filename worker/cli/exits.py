"""Exit codes: the one place that says which error ends the command line with which code."""

from __future__ import annotations

from enum import IntEnum

from worker.errors import INTERNAL, code_of, is_retryable


class Exit(IntEnum):
    """What a script may rely on."""

    OK = 0
    PROBLEM = 1
    BAD_INPUT = 2
    ENVIRONMENT = 3
    UNAVAILABLE = 4
    NOT_FOUND = 5
    CONFLICT = 6
    OVER_LIMIT = 7
    INTERNAL = 70
    INTERRUPTED = 130


MEANING = {
    Exit.OK: "done",
    Exit.PROBLEM: "finished, but something failed or a problem was found",
    Exit.BAD_INPUT: "bad input: the manifest, a photo, a LoRA file or the arguments",
    Exit.ENVIRONMENT: "configuration or environment: a setting, a missing extra, weights, an outdated schema",
    Exit.UNAVAILABLE: "a service does not answer: database, broker or storage; try again",
    Exit.NOT_FOUND: "no such job, picture, person, tenant, weight set or worker",
    Exit.CONFLICT: "the key belongs to a job with other content",
    Exit.OVER_LIMIT: "the tenant would be over a limit: people, waiting pictures, stored bytes, pictures a minute",
    Exit.INTERNAL: "a fault of this program; please report it",
    Exit.INTERRUPTED: "interrupted from the keyboard",
}

_BY_CODE = {
    "bad_key": Exit.BAD_INPUT,
    "bad_photo": Exit.BAD_INPUT,
    "bucket_missing": Exit.ENVIRONMENT,
    "conditional_write_missing": Exit.ENVIRONMENT,
    "database_outdated": Exit.ENVIRONMENT,
    "dataset": Exit.BAD_INPUT,
    "dataset_conflict": Exit.BAD_INPUT,
    "dataset_damaged": Exit.BAD_INPUT,
    "dataset_missing": Exit.BAD_INPUT,
    "extra_missing": Exit.ENVIRONMENT,
    "face": Exit.BAD_INPUT,
    "file_refused": Exit.BAD_INPUT,
    "gallery_outdated": Exit.PROBLEM,
    "gallery_refused": Exit.BAD_INPUT,
    "invalid_request": Exit.BAD_INPUT,
    "key_conflict": Exit.CONFLICT,
    "licence_not_accepted": Exit.ENVIRONMENT,
    "lora_mismatch": Exit.BAD_INPUT,
    "manifest_invalid": Exit.BAD_INPUT,
    "models_lock_invalid": Exit.ENVIRONMENT,
    "models_no_room": Exit.ENVIRONMENT,
    "marking_broken": Exit.ENVIRONMENT,
    "no_face": Exit.BAD_INPUT,
    "no_usable_photo": Exit.BAD_INPUT,
    "non_finite_loss": Exit.PROBLEM,
    "non_finite_weights": Exit.BAD_INPUT,
    "object_denied": Exit.ENVIRONMENT,
    "object_missing": Exit.NOT_FOUND,
    "output_refused": Exit.ENVIRONMENT,
    "package_missing": Exit.ENVIRONMENT,
    "photo_refused": Exit.BAD_INPUT,
    "pool_refused": Exit.ENVIRONMENT,
    "gpus_not_there": Exit.ENVIRONMENT,
    "calibration_impossible": Exit.ENVIRONMENT,
    "profile_invalid": Exit.ENVIRONMENT,
    "profile_unknown": Exit.ENVIRONMENT,
    "prompt_syntax": Exit.BAD_INPUT,
    "quota_exceeded": Exit.OVER_LIMIT,
    "request_invalid": Exit.BAD_INPUT,
    "settings_invalid": Exit.ENVIRONMENT,
    "storage": Exit.UNAVAILABLE,
    "storage_denied": Exit.ENVIRONMENT,
    "storage_full": Exit.UNAVAILABLE,
    "training_config_invalid": Exit.BAD_INPUT,
    "training_interrupted": Exit.INTERRUPTED,
    "training_mismatch": Exit.BAD_INPUT,
    "training_state_invalid": Exit.CONFLICT,
    "audit_refused": Exit.BAD_INPUT,
    "receipt_invalid": Exit.BAD_INPUT,
    "unknown_job": Exit.NOT_FOUND,
    "unknown_person": Exit.NOT_FOUND,
    "unknown_tenant": Exit.NOT_FOUND,
    "unknown_picture": Exit.NOT_FOUND,
    "unknown_token": Exit.NOT_FOUND,
    "unknown_webhook": Exit.NOT_FOUND,
    "unknown_weight_set": Exit.NOT_FOUND,
    "unknown_worker": Exit.NOT_FOUND,
    "usage": Exit.BAD_INPUT,
    "webhook_refused": Exit.BAD_INPUT,
    "watermark_impossible": Exit.BAD_INPUT,
    "weight_set_damaged": Exit.PROBLEM,  # a worker makes it anew; asking a second time changes nothing
    "worker_died": Exit.PROBLEM,
}


def exit_code_of(error: BaseException) -> Exit:
    """The exit code of an error of the three packages; INTERNAL for what nobody foresaw."""
    code = code_of(error)
    if code == INTERNAL:
        return Exit.INTERNAL
    if code in _BY_CODE:
        return _BY_CODE[code]
    if is_retryable(error):
        return Exit.UNAVAILABLE
    return Exit.ENVIRONMENT if type(error).__module__.startswith("hyperlora") else Exit.PROBLEM


def epilog() -> str:
    """The exit codes as the last paragraphs of the help."""
    lines = [f"{code:d}  {meaning}" for code, meaning in MEANING.items()]
    return "Exit codes:\n\n" + "\n\n".join(lines)
