"""kornia: augmentations of pictures with their masks, its losses, filters, colours, features and a homography."""

import kornia
import kornia.augmentation as augment
import torch
from torch import nn

augmented = augment.AugmentationSequential(
    augment.RandomHorizontalFlip(p=0.5),
    augment.RandomAffine(15, p=0.5),
    augment.ColorJitter(0.2, 0.2, 0.2, 0.2, p=0.8),
    augment.RandomErasing(p=0.3),
    augment.RandomGaussianBlur((3, 3), (0.1, 2.0), p=0.5),
    augment.Normalize(0.5, 0.5),
    data_keys=["input", "mask"],
)
net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 1)).cuda()
optimizer = torch.optim.AdamW(net.parameters())
for _ in range(3):
    pictures = torch.rand(4, 3, 64, 64, device="cuda")
    masks = (torch.rand(4, 1, 64, 64, device="cuda") > 0.5).float()
    pictures, masks = augmented(pictures, masks)
    loss = kornia.losses.dice_loss(net(pictures), masks[:, 0].long())
    loss = loss + kornia.losses.ssim_loss(pictures, pictures * 0.9, 5)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print("loss", loss.item())
corners = torch.rand(1, 8, 2, device="cuda"), torch.rand(1, 8, 2, device="cuda")
for made in (
    kornia.filters.sobel(pictures),
    kornia.feature.harris_response(pictures[:, :1]),
    kornia.geometry.transform.rotate(pictures, torch.full((4,), 10.0, device="cuda")),
    kornia.color.rgb_to_hsv(pictures),
    kornia.color.rgb_to_lab(pictures),
    kornia.morphology.dilation(pictures, torch.ones(3, 3, device="cuda")),
    kornia.geometry.homography.find_homography_dlt(*corners),
    kornia.enhance.equalize_clahe(pictures.clamp(0, 1)),
):
    print(tuple(made.shape))
