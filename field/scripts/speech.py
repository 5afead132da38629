"""Speech recognition: a mel spectrogram by STFT on the card, DeepSpeech-like convolutions and GRUs, CTC loss, greedy decoding."""

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self, mels=80, hidden=256):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 32, (11, 11), (2, 2), (5, 5)),
            nn.BatchNorm2d(32),
            nn.Hardtanh(0, 20),
            nn.Conv2d(32, 32, (11, 11), (2, 1), (5, 5)),
            nn.BatchNorm2d(32),
            nn.Hardtanh(0, 20),
        )
        self.rnn = nn.GRU(32 * mels // 4, hidden, 3, bidirectional=True, batch_first=True)
        self.head = nn.Sequential(nn.LayerNorm(2 * hidden), nn.Linear(2 * hidden, 29))

    def forward(self, x):
        h = self.conv(x.unsqueeze(1))
        b, c, f, t = h.shape
        h, _ = self.rnn(h.reshape(b, c * f, t).transpose(1, 2))
        return self.head(h).log_softmax(-1).transpose(0, 1)


window, bank = torch.hann_window(400).cuda(), torch.rand(80, 201).cuda()


def features(wave):
    spectrum = torch.stft(wave, 400, 160, 400, window, return_complex=True).abs().pow(2)
    mel = torch.matmul(bank, spectrum)
    logs = torch.log(mel.clamp(min=1e-10))
    return (logs - logs.mean((1, 2), keepdim=True)) / logs.std((1, 2), keepdim=True)


net = Net().cuda()
optimizer = torch.optim.AdamW(net.parameters(), 5e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, total_steps=10)
for step in range(3):
    x = features(torch.randn(12, 64000, device="cuda"))
    logp = net(x)
    lengths = torch.full((12,), logp.size(0), dtype=torch.long)
    target_lengths = torch.randint(10, 30, (12,))
    targets = torch.randint(1, 29, (12, 30)).cuda()
    loss = F.ctc_loss(logp, targets, lengths, target_lengths, blank=0, zero_infinity=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 10)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    best = logp.argmax(-1).transpose(0, 1)
    texts = [[c for c in torch.unique_consecutive(row).tolist() if c] for row in best]
    print(step, loss.item(), len(texts))
