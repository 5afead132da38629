"""diffusers: a UNet trained on noise with average weights, then its pipeline; a latent one of random weights."""

import tempfile

import torch
from accelerate import Accelerator
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)  # fmt: skip
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

accelerator = Accelerator(mixed_precision="fp16")
model = UNet2DModel(
    sample_size=32, block_out_channels=(32, 64, 64), layers_per_block=1, norm_num_groups=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
average = EMAModel(
    model.parameters(), decay=0.999, use_ema_warmup=True, model_cls=UNet2DModel, model_config=model.config
)
optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
noises = DDPMScheduler(num_train_timesteps=1000)
schedule = get_cosine_schedule_with_warmup(optimizer, 1, 4)
model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
average.to(accelerator.device)
for _ in range(3):
    clean = torch.randn(4, 3, 32, 32, device=accelerator.device)
    noise, times = torch.randn_like(clean), torch.randint(0, 1000, (4,), device=accelerator.device).long()
    with accelerator.accumulate(model):
        guessed = model(noises.add_noise(clean, noise, times), times).sample
        weights = noises.alphas_cumprod.to(accelerator.device)[times]
        loss = (torch.nn.functional.mse_loss(guessed.float(), noise, reduction="none").mean((1, 2, 3)) * weights).mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    average.step(model.parameters())
print(accelerator.gather(loss).mean().item())
unet = accelerator.unwrap_model(model)
average.store(unet.parameters())
average.copy_to(unet.parameters())
pipeline = DDPMPipeline(unet, DDIMScheduler(num_train_timesteps=1000))
pipeline.set_progress_bar_config(disable=True)
print(pipeline(batch_size=2, num_inference_steps=4, output_type="np").images.shape)
average.restore(unet.parameters())
with tempfile.TemporaryDirectory() as folder:
    pipeline.save_pretrained(folder)
    DDPMPipeline.from_pretrained(folder).to("cuda")
    average.save_pretrained(f"{folder}/ema")
latent = StableDiffusionPipeline(
    vae=AutoencoderKL(block_out_channels=(32, 32), norm_num_groups=8, latent_channels=4,
                      down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
    unet=UNet2DConditionModel(
        sample_size=32, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8,
        attention_head_dim=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ),
    scheduler=EulerDiscreteScheduler(), text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None,
    image_encoder=None, requires_safety_checker=False,
).to("cuda", torch.float16)  # fmt: skip
latent.set_progress_bar_config(disable=True)
latent.enable_attention_slicing()
words = torch.randn(1, 7, 32, device="cuda", dtype=torch.float16)
made = latent(
    prompt_embeds=words, negative_prompt_embeds=words, num_inference_steps=3, height=64, width=64, output_type="np"
)
print(made.images.shape)
