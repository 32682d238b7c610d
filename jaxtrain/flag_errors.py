"""What is wrong with a command line, and the flag that was meant: a misspelt one, or the name that others use."""

import re
from collections.abc import Mapping
from typing import Any

from absl import flags

from jaxtrain import suggestions

# Names of other projects, and of other commands here: those of ours that they may mean, the first that a command has.
OTHER_NAMES = {
    "lr": "learning_rate learningrate step_size max_lr peak_lr",
    "steps": "max_steps num_steps total_steps train_steps training_steps max_iters iterations num_train_steps epochs "
    "num_epochs num_train_epochs max_epochs",
    "batch_size": "per_device_train_batch_size train_batch_size global_batch_size micro_batch_size bs bsz",
    "microbatches": "gradient_accumulation_steps grad_accum grad_accum_steps gradient_accumulation accumulate",
    "warmup": "warmup_steps num_warmup_steps warmup_ratio warmup_iters lr_warmup_steps",
    "schedule": "lr_scheduler lr_scheduler_type lr_schedule scheduler lr_decay_style",
    "end_lr": "min_lr final_lr lr_end min_lr_ratio",
    "seq_len": "max_seq_length max_length seq_length max_seq_len block_size context_length context max_prompt_length "
    "cutoff_len n_ctx",
    "clip": "max_grad_norm grad_clip gradient_clipping gradient_clip_val clip_grad_norm",
    "weight_decay": "wd",
    "optimizer": "optim opt",
    "b1": "adam_beta1 beta1",
    "b2": "adam_beta2 beta2",
    "eps": "adam_epsilon adam_eps epsilon",
    "workdir out to": "output_dir out_dir output output_path save_dir checkpoint_dir ckpt_dir run_dir exp_dir log_dir "
    "logdir run_name out workdir",
    "init_from model models generator": "model_name_or_path model_name_or_dir model_name base_model pretrained_model "
    "model_path checkpoint ckpt load load_from resume resume_from resume_from_checkpoint policy init_from model models "
    "sft_model_path run",
    "data source prompts": "dataset dataset_name dataset_path datasets train_data train_file train_dataset data_path "
    "dataset_mixer input input_file data source",
    "prompts data": "prompt_file prompt_dataset eval_prompts prompts",
    "eval_data": "eval_dataset validation_data validation_file valid_data test_data val_data",
    "eval_every": "eval_steps eval_interval eval_freq evaluation_steps val_check_interval eval_strategy",
    "checkpoint_every": "save_steps save_every save_interval checkpoint_interval save_freq checkpoint_steps",
    "keep": "save_total_limit max_checkpoints max_to_keep keep_checkpoints",
    "log_every": "logging_steps log_interval log_steps log_freq",
    "max_new": "max_new_tokens max_tokens max_completion_length response_length max_gen_len generate_max_len",
    "group": "num_generations group_size n_samples_per_prompt rollout_n num_return_sequences n",
    "samples": "num_samples num_return_sequences n best_of",
    "epochs": "num_ppo_epochs ppo_epochs num_iterations",
    "minibatches": "num_mini_batches num_minibatches mini_batches",
    "kl_coef": "kl_beta init_kl_coef kl_coeff beta kl_penalty kl_loss_coef",
    "clip_ratio": "cliprange clip_range epsilon eps_clip",
    "value_coef": "vf_coef critic_coef",
    "value_clip": "cliprange_value",
    "entropy_coef": "ent_coef entropy_bonus entropy_weight",
    "lam": "gae_lambda lambda_ lmbda",
    "reward_model": "reward_model_path rm reward_model_name_or_path reward_path",
    "reward": "reward_fn reward_funcs reward_function",
    "loss": "loss_type",
    "lora_rank": "lora_r r rank lora",
    "lora_targets": "target_modules lora_target_modules lora_target",
    "dora": "use_dora",
    "base_weights": "load_in_4bit load_in_8bit bnb_4bit_quant_type quantization qlora weight_qtype",
    "matmul_dtype": "fp8 float8 use_fp8 fp8_recipe fp8_format int8_training use_qwix_quantization quantization",
    "kv_cache": "kv_cache_dtype cache_implementation kv_quant_dtype quantize_kvcache",
    "remat": "gradient_checkpointing activation_checkpointing checkpoint_activations",
    "dtype": "bf16 fp16 precision mixed_precision torch_dtype half",
    "attention": "attn_implementation flash_attention use_flash_attention attn",
    "tokenizer": "tokenizer_name tokenizer_name_or_path tokenizer_path vocab",
    "template": "chat_template prompt_template conversation_template",
    "system": "system_prompt system_message default_system",
    "teacher": "teacher_model teacher_model_name_or_path teacher_path",
    "on_policy": "lmbda gkd_lambda on_policy_share",
    "soft_temperature": "distill_temperature kd_temperature",
    "mesh": "gpus num_gpus devices num_devices tensor_parallel_size tp fsdp tensor_parallel data_parallel strategy",
    "seed": "random_seed rng_seed data_seed manual_seed",
    "temperature": "temp sampling_temperature",
    "prompt_count": "num_prompts max_prompts limit num_examples max_samples",
    "port": "server_port",
    "dry_run": "dryrun dry check validate",
    "cache_dir": "cache cache_path data_dir hf_home",
}
# What a flag of another project counts otherwise.
REMARKS = {
    "epochs": "training is counted in steps of --batch_size rows",
    "warmup_ratio": "it counts steps",
    "per_device": "it counts the rows of all devices",
    "micro_batch": "it counts the rows of all devices, and --microbatches splits it",
}


def message(error: Exception, defaults: Mapping[str, Any]) -> str:
    """What is wrong, of an error of absl, and what to write; `defaults` are the command's flags with their defaults."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return _unknown(error.flagname, defaults)
    text = str(error).removeprefix("ERROR:: ")
    if match := re.match(r"flag --(\w+)=(.*): (?:invalid lit|could not con|\('Non-bool)", text, re.S):
        wanted = _wanted(defaults.get(match[1]))
        return f"--{match[1]}={match[2]}: write {wanted}" if wanted else text
    if match := re.fullmatch(r"Missing value for flag --(\w+)", text):
        return f"--{match[1]}: it has no value; write --{match[1]}={_example(defaults.get(match[1]))}"
    return text


def _unknown(name: str, defaults: Mapping[str, Any]) -> str:
    meant = other_names(name, defaults)
    remark = next((text for part, text in REMARKS.items() if part in name), "") if meant else ""
    names = meant or [f"--{each}" for each in suggestions.near(name.removeprefix("no"), defaults)]
    names = names or [f"--{each}" for each in suggestions.near(name, defaults)]
    hint = f"; did you mean {' or '.join(names)}?" if names else ""
    return f"there is no flag --{name}{hint}{f' ({remark})' if remark else ''}"


def other_names(name: str, defaults: Mapping[str, Any]) -> list[str]:
    """The flags of a command, `--lr`, that another project's or command's flag may mean."""
    plain, found = name.lower().replace("-", "_"), []
    for ours, theirs in OTHER_NAMES.items():
        if plain in theirs.split():
            found += [f"--{each}" for each in ours.split() if each in defaults and each != plain][:1]
    return list(dict.fromkeys(found))[:3]


def _wanted(default: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    example = f", such as {_example(default)}" if type(default) in (int, float) else ""
    return f"{kinds[type(default)]}{example}" if type(default) in kinds else ""


def _example(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default) or "VALUE"
