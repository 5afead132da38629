"""diffusers' train_controlnet.py in small: a ControlNet from a UNet, bf16 by accelerate, set_grads_to_none, EMA,
checkpoint by save_state."""

import tempfile

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel

torch.manual_seed(0)
accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=1)
vae = AutoencoderKL(
    block_out_channels=(32, 64),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    norm_num_groups=8,
)
unet = UNet2DConditionModel(
    sample_size=32,
    block_out_channels=(64, 128),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=96,
    attention_head_dim=8,
    norm_num_groups=16,
)
control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
vae.requires_grad_(False)
unet.requires_grad_(False)
control.train()
optimizer = torch.optim.AdamW(control.parameters(), 1e-5)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        return {
            "pixel_values": torch.randn(3, 64, 64, generator=g),
            "conditioning": torch.rand(3, 64, 64, generator=g),
            "hidden": torch.randn(20, 96, generator=g),
        }


loader = torch.utils.data.DataLoader(Rows(), 6)
control, optimizer, loader = accelerator.prepare(control, optimizer, loader)
ema = EMAModel(accelerator.unwrap_model(control).parameters(), decay=0.99)
ema.to(accelerator.device)
for part in (vae, unet):
    part.to(accelerator.device, dtype=torch.bfloat16)
noiser = DDPMScheduler()
for batch in loader:
    with accelerator.accumulate(control):
        latents = vae.encode(batch["pixel_values"].to(torch.bfloat16)).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        steps = torch.randint(0, 1000, (latents.shape[0],), device=latents.device)
        noisy = noiser.add_noise(latents.float(), noise.float(), steps).to(torch.bfloat16)
        hidden = batch["hidden"].to(torch.bfloat16)
        down, mid = control(
            noisy,
            steps,
            encoder_hidden_states=hidden,
            controlnet_cond=batch["conditioning"].to(torch.bfloat16),
            return_dict=False,
        )
        out = unet(
            noisy,
            steps,
            encoder_hidden_states=hidden,
            down_block_additional_residuals=[x.to(torch.bfloat16) for x in down],
            mid_block_additional_residual=mid.to(torch.bfloat16),
            return_dict=False,
        )[0]
        loss = F.mse_loss(out.float(), noise.float())
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(control.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.step(control.parameters())
accelerator.save_state(tempfile.mkdtemp())
print(loss.item())
ema.store(control.parameters())
ema.copy_to(control.parameters())
sampler = DDIMScheduler()
sampler.set_timesteps(5)
with torch.no_grad():
    x, cond, hidden = (
        torch.randn(2, 4, 32, 32, device="cuda", dtype=torch.bfloat16),
        torch.rand(2, 3, 64, 64, device="cuda", dtype=torch.bfloat16),
        torch.randn(2, 20, 96, device="cuda", dtype=torch.bfloat16),
    )
    for t in sampler.timesteps:
        down, mid = control(x, t, encoder_hidden_states=hidden, controlnet_cond=cond, return_dict=False)
        out = unet(
            x,
            t,
            encoder_hidden_states=hidden,
            down_block_additional_residuals=[d.to(x.dtype) for d in down],
            mid_block_additional_residual=mid.to(x.dtype),
        ).sample
        x = sampler.step(out, t, x).prev_sample
    print(vae.decode(x / vae.config.scaling_factor).sample.shape)
ema.restore(control.parameters())
